// Flow-weighted sum: sums_i = sum_j w_ij v_j and W_i = sum_j w_ij over the keys of the row's frame.
//
// Grid: frames x row tiles of 64 x channel tiles of 64. A block forms the weights of 64 x 32 pairs in
// shared memory and multiplies them with the 32 x 64 values on the float32 units, 8 x 4 sums a thread.
// No workspace; sums are float32 in a fixed order. Rows that do not count give 0.
#pragma once

#include "tiles.cuh"

namespace laparoflow::cuda {

struct WeightedSumArguments : WeightedSum {
  std::int64_t channel_tiles, tiles_per_frame;
};

struct WeightedSumTile {
  static constexpr int kThreads = 128, kRows = 64, kColumns = 32, kChannels = 64;
  float row_flow[kMaxFlow][kRows];
  float column_flow[kMaxFlow][kColumns];
  float weight[kColumns][kRows];
  float value[kColumns][kChannels];
};

LAPAROFLOW_KERNEL(WeightedSumTile::kThreads, 2)
weighted_sum_kernel(WeightedSumArguments a) {
  using Tile = WeightedSumTile;
  Tile& tile = *reinterpret_cast<Tile*>(shared_memory());
  const std::int64_t channel_tile = block_index() % a.channel_tiles;
  const std::int64_t row_block = block_index() / a.channel_tiles;
  const int frame = static_cast<int>(row_block / a.tiles_per_frame);
  const Range rows = frame_range(a.row, frame), columns = frame_range(a.column, frame);
  const std::int64_t first_row = rows.begin + row_block % a.tiles_per_frame * Tile::kRows;
  if (first_row >= rows.end) return;
  const std::int64_t first_channel = channel_tile * Tile::kChannels;
  const float gain = weight_gain(a.flow_kernel, a.inv_bandwidth[frame]);
  const int row_at = thread_index() / 16 * 8, channel_at = thread_index() % 16 * 4;

  load_flows(&tile.row_flow[0][0], a.row, rows, first_row, Tile::kRows, a.flow_width, kFarFlow);
  float sums[8][4] = {};
  float weight_sum = 0.0f;
  for (std::int64_t first = columns.begin; first < columns.end; first += Tile::kColumns) {
    load_flows(&tile.column_flow[0][0], a.column, columns, first, Tile::kColumns, a.flow_width, -kFarFlow);
    for (int i = thread_index(); i < Tile::kColumns * Tile::kChannels; i += Tile::kThreads) {
      const int c = i / Tile::kChannels;
      const std::int64_t channel = first_channel + i % Tile::kChannels;
      tile.value[c][i % Tile::kChannels] =
          channel < a.channels && counts(a.column, columns, first + c) ? a.values[(first + c) * a.channels + channel] : 0.0f;
    }
    block_barrier();
    for (int i = thread_index(); i < Tile::kColumns * Tile::kRows; i += Tile::kThreads) {
      const int c = i / Tile::kRows, r = i % Tile::kRows;
      float r2 = 0.0f;
      for (int f = 0; f < a.flow_width; ++f) {
        const float d = tile.row_flow[f][place(r)] - tile.column_flow[f][place(c)];
        r2 = DeviceMath::fma(d, d, r2);
      }
      tile.weight[c][r] = marked_weight(a.flow_kernel, r2, gain).value;
    }
    block_barrier();
    for (int c = 0; c < Tile::kColumns; ++c) {
#pragma unroll
      for (int r = 0; r < 8; ++r)
#pragma unroll
        for (int v = 0; v < 4; ++v)
          sums[r][v] = DeviceMath::fma(tile.weight[c][row_at + r], tile.value[c][channel_at + v], sums[r][v]);
    }
    if (thread_index() < Tile::kRows) {
      float tile_sum = 0.0f;
      for (int c = 0; c < Tile::kColumns; ++c) tile_sum += tile.weight[c][thread_index()];
      weight_sum += tile_sum;
    }
    block_barrier();
  }
  for (int r = 0; r < 8; ++r) {
    const std::int64_t i = first_row + row_at + r;
    if (i >= rows.end) continue;
    const bool valid = counts(a.row, rows, i);
    for (int v = 0; v < 4; ++v) {
      const std::int64_t channel = first_channel + channel_at + v;
      if (channel < a.channels) a.sums[i * a.channels + channel] = valid ? sums[r][v] : 0.0f;
    }
  }
  const std::int64_t i = first_row + thread_index();
  if (channel_tile == 0 && thread_index() < Tile::kRows && i < rows.end)
    a.weight_sum[i] = counts(a.row, rows, i) ? weight_sum : 0.0f;
}

}  // namespace laparoflow::cuda
