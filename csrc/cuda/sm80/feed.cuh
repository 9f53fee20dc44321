// How tiles reach shared memory on sm_80: all threads of the block copy, with cp.async for the embeddings, the next
// column tile while the present one is computed.
#pragma once

#include "../common/feed.cuh"
#include "engines.cuh"

namespace laparoflow::cuda {

/// Starts the copy of `count` embedding rows from `first` to shared memory; 8 threads share a row.
template <class Engine>
LAPAROFLOW_DEVICE void load_embeddings(typename Engine::Type* to, const Side& side, Range range, std::int64_t first,
                                       int count, const DepthLayout<Engine>& layout, bool aligned) {
  using Type = typename Engine::Type;
  constexpr int kThreadsPerRow = 8;
  const Type* from = static_cast<const Type*>(side.embedding);
  const int chunk = thread_index() % kThreadsPerRow;
#pragma unroll 1
  for (int r = thread_index() / kThreadsPerRow; r < count; r += thread_count() / kThreadsPerRow) {
    const std::int64_t i = first + r;
    const bool valid = counts(side, range, i);
    const Type* row = from + (valid ? i * layout.depth : 0);
    auto target = [&](int d) { return to + Engine::tile_offset(r, d, layout.padded); };
    if (aligned) {
#pragma unroll 1
      for (int d = chunk * Engine::kVector; d < layout.padded; d += kThreadsPerRow * Engine::kVector) {
        const bool inside = valid && d < layout.depth;
        copy_async_16(target(d), inside ? row + d : from, inside);
      }
    } else {
#pragma unroll 1
      for (int d = chunk; d < layout.padded; d += kThreadsPerRow) {
        Type x{};
        if (valid && d < layout.depth) x = row[d];
        *target(d) = x;
      }
    }
  }
}

template <class Engine>
class Feed {
 public:
  using Type = typename Engine::Type;
  static constexpr int kProducerThreads = 0;
  static constexpr int kMostStages = 2;
  static constexpr bool kTilesCrossFrames = true;  // when the denominator is the batch's

  static int record_bytes(int, int, int) { return 0; }
  /// Shared memory of the row tile and the stages.
  static int bytes(int row_count, int stages, int depth, int flow_width, int coefficients) {
    return RowTile<Engine>::bytes(row_count, depth, flow_width) +
           stages * ColumnStage<Engine>::bytes(depth, flow_width, coefficients);
  }
  static std::int64_t column_tiles_of_batch(const Side& side, int) {
    return (side.total + Engine::kColumns - 1) / Engine::kColumns;
  }

  LAPAROFLOW_DEVICE Feed(const FeedArguments& arguments, char* memory)
      : a_(arguments), layout_(arguments.problem->depth), memory_(memory) {}

  LAPAROFLOW_DEVICE void span(int frame, std::int64_t first, std::int64_t count) {
    frame_ = frame;
    columns_ = denominator_range(problem(), frame);
    first_tile_ = static_cast<int>(first);
    columns_.begin += first * Engine::kColumns;
    if (columns_.end > columns_.begin + count * Engine::kColumns) columns_.end = columns_.begin + count * Engine::kColumns;
    count_ = count;
  }
  LAPAROFLOW_DEVICE int tiles() const {  // read again for each tile: held, it would cost the gradient a register
    const Range all = denominator_range(problem(), frame_);
    const std::int64_t left = (all.end - all.begin + Engine::kColumns - 1) / Engine::kColumns - first_tile_;
    return static_cast<int>(left < count_ ? left : count_);
  }
  LAPAROFLOW_DEVICE Range columns(int tile) const {
    const std::int64_t first = columns_.begin + static_cast<std::int64_t>(tile) * Engine::kColumns;
    return {first, first + Engine::kColumns < columns_.end ? first + Engine::kColumns : columns_.end};
  }
  LAPAROFLOW_DEVICE std::int64_t slot(int tile) const {
    return (problem().scope == Scope::kBatch ? 0 : frame_slots(problem().column, frame_).begin) + first_tile_ + tile;
  }

  template <bool kGroups>
  LAPAROFLOW_DEVICE void begin(int frame, std::int64_t first_row) {
    frame_ = frame;
    const Range own = frame_range(problem().column, frame);
    const std::int64_t from = own.begin - columns_.begin, to = own.end - columns_.begin;
    first_weights_ = from <= 0 ? 0 : static_cast<int>(from / Engine::kColumns);
    last_weights_ = to <= 0 || to <= from ? 0 : static_cast<int>((to + Engine::kColumns - 1) / Engine::kColumns);
    block_barrier();
    load_rows<kGroups>(first_row);
    if (a_.stages == 2 && tiles() > 0) load_columns<kGroups>(0);
  }
  template <bool kGroups>
  LAPAROFLOW_DEVICE ColumnStage<Engine> acquire(int tile) {
    if (a_.stages == 1) {
      load_columns<kGroups>(tile);
      copy_async_wait<0>();
    } else if (tile + 1 < tiles()) {
      load_columns<kGroups>(tile + 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    block_barrier();
    return stage(tile);
  }
  LAPAROFLOW_DEVICE void release(int) { block_barrier(); }
  LAPAROFLOW_DEVICE void end() {
    copy_async_wait<0>();
    block_barrier();
  }
  LAPAROFLOW_DEVICE void barrier() const { block_barrier(); }

  LAPAROFLOW_DEVICE bool holds_weights(int tile) const { return tile >= first_weights_ && tile < last_weights_; }
  LAPAROFLOW_DEVICE RowTile<Engine> rows() const {
    return RowTile<Engine>(memory_, a_.row_count, layout_.padded, problem().flow_width);
  }

 private:
  LAPAROFLOW_DEVICE const Problem& problem() const { return *a_.problem; }

  LAPAROFLOW_DEVICE ColumnStage<Engine> stage(int tile) const {
    const int flow_width = problem().flow_width;
    char* at = memory_ + RowTile<Engine>::bytes(a_.row_count, layout_.padded, flow_width);
    if (a_.stages == 2 && (tile & 1)) at += ColumnStage<Engine>::bytes(layout_.padded, flow_width, a_.coefficient_space);
    return ColumnStage<Engine>(at, layout_.padded, flow_width);
  }

  /// F.
  template <bool kGroups>
  LAPAROFLOW_DEVICE int flows() const {
    return problem().flow_width - (kGroups ? kGroupWords : 0);
  }

  template <bool kGroups>
  LAPAROFLOW_DEVICE void load_rows(std::int64_t first) const {
    const Side& side = problem().row;
    const Range range = frame_range(side, frame_);
    const RowTile<Engine> tile = rows();
    load_embeddings<Engine>(tile.embedding, side, range, first, a_.row_count, layout_, problem().aligned);
    load_flows(tile.flow, side, range, first, a_.row_count, flows<kGroups>(), kFarFlow);
    if constexpr (kGroups) load_groups(tile.flow + flows<kGroups>() * a_.row_count, side, range, first, a_.row_count);
#pragma unroll 1
    for (int r = thread_index(); r < a_.row_count; r += thread_count())
      tile.mark[place(r)] = counts(side, range, first + r) ? 1.0f : 0.0f;
    copy_async_commit();
  }

  /// The ranges are read again here: held across the loop over tiles they would cost the gradient its registers.
  template <bool kGroups>
  LAPAROFLOW_DEVICE void load_columns(int tile) const {
    const Side& side = problem().column;
    const Range range = denominator_range(problem(), frame_);
    const std::int64_t first = range.begin + (std::int64_t{first_tile_} + tile) * Engine::kColumns;
    const ColumnStage<Engine> to = stage(tile);
    load_embeddings<Engine>(to.embedding, side, range, first, Engine::kColumns, layout_, problem().aligned);
    to.load_numbers(side, range, frame_range(side, frame_), first, flows<kGroups>(), -kFarFlow, a_.column_coefficients,
                    a_.column_coefficients != nullptr ? kCoefficients : 0);
    if constexpr (kGroups)  // of the denominator: other frames, too, have keys that do not count
      load_groups(to.flow + flows<kGroups>() * Engine::kColumns, side, range, first, Engine::kColumns);
    copy_async_commit();
  }

  const FeedArguments a_;
  DepthLayout<Engine> layout_;
  char* memory_;
  Range columns_{0, 0};
  std::int64_t count_ = 0;
  int first_tile_ = 0, frame_ = 0, first_weights_ = 0, last_weights_ = 0;
};

}  // namespace laparoflow::cuda
