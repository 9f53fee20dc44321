// How tiles reach the kernels: arguments of the feeds, each in its architecture's feed.cuh.
//
// What the kernels ask of a feed (Feed<Engine>; that of sm90a asks more of its kernels):
//   span           the columns to sweep: `count` tiles from tile `first` of the frame's denominator
//   begin          a new row tile; acquire(t), release(t) around the use of column tile t; end
//   rows           the row tile, after the first acquire;   columns(t)  the columns of tile t;
//   slot(t)        the slot of tile t for column sums; batch tiles that cross frames are numbered as they come
//   holds_weights  whether columns of tile t belong to the row's frame
//   barrier        of the threads that compute
#pragma once

#include "tiles.cuh"

namespace laparoflow::cuda {

/// Records of tiles in the workspace; unused on sm_80.
struct Records {
  char* data = nullptr;
  std::int64_t slots = 0;
  int bytes = 0;
};

/// What both kernels tell their feed.
struct FeedArguments {
  const Problem* problem;
  int warps, stages, row_count;
  const float* column_coefficients;  // [kCoefficients, column.total] or null
  int coefficient_space;             // coefficients a stage has room for
  Records row_records, column_records;
};

template <class Engine>
class Feed;

}  // namespace laparoflow::cuda
