// How tiles reach shared memory on sm_90a: a producer thread moves each tile with one bulk copy (TMA), mbarriers tell
// the computing warpgroups when a stage is full and the producer when it is empty.
//
// A tile is one bulk copy because `record_kernel` has laid it out before, in the workspace: 64 rows of one side, with
// their embeddings in the swizzled image that wgmma reads, zero where a row is masked or the tile is ragged, then
// flows, marks and coefficients. So a copy needs no tensor map, no alignment of the caller's rows, no bounds. Records
// never hold rows of two frames: frame b's first is slot offsets[b] / 64 + b, which leaves room for all of its tiles;
// slots in between and one behind the last are empty tiles. Behind the embeddings lie the factors of the weights, and the
// record says whether all of its rows are within their reach. Cost: N x D x 2 bytes a side, read and written once.
#pragma once

#include "../common/feed.cuh"
#include "engine.cuh"

namespace laparoflow::cuda {

LAPAROFLOW_HOST_DEVICE int to_multiple(int x, int of) { return (x + of - 1) / of * of; }

/// The rows a record holds, behind its numbers in shared memory.
struct alignas(16) RecordRows {
  std::int64_t begin, end;
  int within_reach;  // all of them
};

struct RecordArguments {
  Problem problem;
  const float* row_coefficients = nullptr;     // [kCoefficients, row.total] or null
  const float* column_coefficients = nullptr;  // [kCoefficients, column.total] or null
  Records row_records, column_records;
};

/// Writes one record a block, the rows' first; the last of each side is the empty one.
template <class Engine>
LAPAROFLOW_KERNEL(128, 1)
record_kernel(RecordArguments a) {
  using Type = typename Engine::Type;
  const Problem& p = a.problem;
  const std::int64_t row_blocks = a.row_records.slots + 1;
  const bool of_columns = block_index() >= row_blocks;
  const Side side = of_columns ? p.column : p.row;
  const Records records = of_columns ? a.column_records : a.row_records;
  const float* coefficients = of_columns ? a.column_coefficients : a.row_coefficients;
  const std::int64_t slot = block_index() - (of_columns ? row_blocks : 0);
  const int low = frame_of_slot(side, p.frames, slot);
  const Range frame = frame_range(side, low);
  float origin[2];
  find_origin(origin, p.row, frame_range(p.row, low), p.flow_width);
  // In a gap, and in the slot behind the last, all rows lie behind the frame's end.
  const std::int64_t first = frame.begin + (slot - frame.begin / kSlotRows - low) * kSlotRows;
  const DepthLayout<Engine> layout(p.depth);
  char* record = records.data + slot * records.bytes;
  const ColumnStage<Engine> to(record, layout.padded, p.flow_width);
  const Type* from = static_cast<const Type*>(side.embedding);
  constexpr int kVector = Engine::kVector;
  struct alignas(16) Vector {
    Type x[kVector];
  };
  const int vectors = layout.padded / kVector;
  for (int v = thread_index(); v < kSlotRows * vectors; v += thread_count()) {
    const int r = v / vectors, d = v % vectors * kVector;
    const std::int64_t i = first + r;
    Vector values{};
    if (counts(side, frame, i)) {
      const Type* row = from + i * p.depth;
      if (p.aligned && d < p.depth)
        values = *reinterpret_cast<const Vector*>(row + d);
      else
        for (int e = 0; e < kVector; ++e)
          if (d + e < p.depth) values.x[e] = row[d + e];
      if (p.folded && coefficients != nullptr && coefficients[kScale * side.total + i] < 0.0f)
        for (int e = 0; e < kVector; ++e) values.x[e].bits ^= 0x8000;  // its sign
    }
    *reinterpret_cast<Vector*>(to.embedding + Engine::tile_offset(r, d, kSlotRows)) = values;
  }
  to.load_numbers(side, frame, frame, first, p.flow_width, of_columns ? -kFarFlow : kFarFlow, coefficients,
                  coefficients != nullptr ? kCoefficients : 0);
  if (thread_index() >= 32) return;
  // The first warp: two rows a thread.
  const float unit = DeviceMath::sqrt(0.5f * kLog2e) * p.inv_bandwidth[low];
  float farthest = 0.0f;
  for (int r = thread_index(); r < kSlotRows; r += 32) {
    const std::int64_t i = first + r;
    const bool counted = counts(side, frame, i);
    float u[2] = {0.0f, 0.0f};
    for (int f = 0; f < 2; ++f)
      if (counted && f < p.flow_width) u[f] = (limited_flow(side.flow[i * p.flow_width + f]) - origin[f]) * unit;
    PixelFactors(u[0], u[1], counted, of_columns).store(to.factors, r);
    const float distance = DeviceMath::fma(u[0], u[0], u[1] * u[1]);
    farthest = DeviceMath::max(farthest, distance <= kReach * kReach ? distance : 2.0f * kReach * kReach);  // NaN is far
  }
  for (int mask = 1; mask < 32; mask *= 2) farthest = DeviceMath::max(farthest, shuffle_xor(farthest, mask));
  if (thread_index() == 0)
    *reinterpret_cast<RecordRows*>(record + records.bytes - sizeof(RecordRows)) = {
        first, first + kSlotRows < frame.end ? first + kSlotRows : frame.end, farthest <= kReach * kReach};
}

template <class T>
class Feed<EngineWarpgroup<T>> {
  using Engine = EngineWarpgroup<T>;

 public:
  using Type = T;
  static constexpr int kProducerThreads = 128;
  static constexpr int kMostStages = 4;
  static constexpr bool kTilesCrossFrames = false;

  static int record_bytes(int depth, int flow_width, int coefficients) {
    return ColumnStage<Engine>::bytes(depth, flow_width, coefficients) + static_cast<int>(sizeof(RecordRows));
  }
  static int bytes(int row_count, int stages, int depth, int flow_width, int coefficients) {
    const int record = to_multiple(record_bytes(depth, flow_width, coefficients), kSwizzleGroup);
    return (row_count / kSlotRows + stages) * record + (1 + 2 * kMostStages) * static_cast<int>(sizeof(Barrier));
  }
  static std::int64_t column_tiles_of_batch(const Side& side, int frames) { return slot_count(side, frames); }

  LAPAROFLOW_DEVICE Feed(const FeedArguments& arguments, char* memory)
      : a_(arguments), depth_(arguments.problem->depth), memory_(memory) {
    record_space_ = to_multiple(a_.column_records.bytes, kSwizzleGroup);
    barriers_ = reinterpret_cast<Barrier*>(memory + (row_images() + a_.stages) * record_space_);
    if (thread_index() == 0) {
      if (shared_address(memory) % kSwizzleGroup != 0) stop_kernel();
      barrier_init(row_full(), 1);
      for (int s = 0; s < a_.stages; ++s) {
        barrier_init(full(s), 1);
        barrier_init(empty(s), computing());
      }
      barrier_init_publish();
    }
    block_barrier();
  }

  LAPAROFLOW_DEVICE bool feeds_only() const { return thread_index() >= computing(); }

  LAPAROFLOW_DEVICE void span(int frame, std::int64_t first, std::int64_t count) {
    const Side& side = problem().column;
    const bool batch = problem().scope == Scope::kBatch;
    const Range own = batch ? Range{0, a_.column_records.slots} : frame_slots(side, frame);
    first_slot_ = own.begin + first;
    const std::int64_t left = own.end - first_slot_;
    tiles_ = static_cast<int>(left < count ? left : count);
    if (tiles_ < 0) tiles_ = 0;
  }
  LAPAROFLOW_DEVICE int tiles() const { return tiles_; }
  LAPAROFLOW_DEVICE std::int64_t slot(int tile) const { return first_slot_ + tile; }

  /// The producer's side of begin and of all tiles. One thread of the warpgroup does the work. A block has one row tile.
  LAPAROFLOW_DEVICE void send(int frame, std::int64_t first_row) {
    if (thread_index() != computing()) return;
    const Range own = frame_slots(problem().row, frame);
    const std::int64_t slot = own.begin + (first_row - problem().row.offsets[frame]) / kSlotRows;
    barrier_arrive_expect(row_full(), row_images() * a_.row_records.bytes);
    for (int i = 0; i < row_images(); ++i) {
      const std::int64_t from = slot + i < own.end ? slot + i : a_.row_records.slots;
      bulk_copy(memory_ + i * record_space_, a_.row_records.data + from * a_.row_records.bytes, a_.row_records.bytes,
                row_full());
    }
    for (int tile = 0; tile < tiles_; ++tile) {
      barrier_wait(empty(stage_), phase_ ^ 1);
      barrier_arrive_expect(full(stage_), a_.column_records.bytes);
      bulk_copy(at_stage(), a_.column_records.data + (first_slot_ + tile) * a_.column_records.bytes, a_.column_records.bytes,
                full(stage_));
      advance();
    }
  }

  LAPAROFLOW_DEVICE void begin(int frame) {
    const Range own = frame_slots(problem().column, frame);
    const auto held = [&](std::int64_t slot) {
      return slot <= first_slot_ ? 0 : slot - first_slot_ < tiles_ ? static_cast<int>(slot - first_slot_) : tiles_;
    };
    first_weights_ = held(own.begin);
    last_weights_ = held(own.end);
    barrier_wait(row_full(), 0);
  }
  LAPAROFLOW_DEVICE ColumnStage<Engine> acquire() {
    barrier_wait(full(stage_), phase_);
    return ColumnStage<Engine>(at_stage(), depth_.padded, problem().flow_width);
  }
  LAPAROFLOW_DEVICE void release() {
    barrier_arrive(empty(stage_));
    advance();
  }
  /// In place of release: on to the next tile, while products still read this one; release_previous when they are done.
  LAPAROFLOW_DEVICE void advance() {
    if (++stage_ == a_.stages) {
      stage_ = 0;
      phase_ ^= 1;
    }
  }
  LAPAROFLOW_DEVICE void release_previous() { barrier_arrive(empty(stage_ == 0 ? a_.stages - 1 : stage_ - 1)); }
  LAPAROFLOW_DEVICE void barrier() const { named_barrier(1, computing()); }

  LAPAROFLOW_DEVICE bool holds_weights(int tile) const { return tile >= first_weights_ && tile < last_weights_; }
  /// Whether the factors of this warpgroup's rows (of its m-th 64), and of the present tile's columns, give their weights.
  LAPAROFLOW_DEVICE bool rows_within_reach(int m = 0) const { return rows_of(row_image(m)).within_reach != 0; }
  LAPAROFLOW_DEVICE bool within_reach() const { return rows_of(at_stage()).within_reach != 0; }
  LAPAROFLOW_DEVICE ColumnStage<Engine> row_record(int m) const {
    return ColumnStage<Engine>(row_image(m), depth_.padded, problem().flow_width);
  }
  LAPAROFLOW_DEVICE RowTile<Engine> rows(int m = 0) const {
    const ColumnStage<Engine> record = row_record(m);
    RowTile<Engine> tile(memory_, kSlotRows, depth_.padded, problem().flow_width);
    tile.embedding = record.embedding;
    tile.factors = record.factors;
    tile.flow = record.flow;
    tile.mark = record.mark;
    return tile;
  }
  LAPAROFLOW_DEVICE const T* all_rows() const { return reinterpret_cast<const T*>(memory_); }
  LAPAROFLOW_DEVICE int row_pitch() const { return record_space_; }

 private:
  LAPAROFLOW_DEVICE const Problem& problem() const { return *a_.problem; }
  LAPAROFLOW_DEVICE int row_images() const { return a_.row_count / kSlotRows; }
  /// The m-th image of this thread's warpgroup.
  LAPAROFLOW_DEVICE char* row_image(int m) const {
    return memory_ + (thread_index() / 128 * (row_images() * 4 / a_.warps) + m) * record_space_;
  }
  LAPAROFLOW_DEVICE int computing() const { return a_.warps * 32; }
  LAPAROFLOW_DEVICE Barrier* row_full() const { return barriers_; }
  LAPAROFLOW_DEVICE Barrier* full(int stage) const { return barriers_ + 1 + 2 * stage; }
  LAPAROFLOW_DEVICE Barrier* empty(int stage) const { return barriers_ + 2 + 2 * stage; }
  LAPAROFLOW_DEVICE char* at_stage() const { return memory_ + (row_images() + stage_) * record_space_; }
  /// Of the record at this place in shared memory; those of both sides are equally long.
  LAPAROFLOW_DEVICE const RecordRows& rows_of(const char* record) const {
    return *reinterpret_cast<const RecordRows*>(record + a_.column_records.bytes - sizeof(RecordRows));
  }

  const FeedArguments a_;
  DepthLayout<Engine> depth_;
  char* memory_;
  Barrier* barriers_;
  int record_space_;
  std::int64_t first_slot_ = 0;
  int tiles_ = 0, first_weights_ = 0, last_weights_ = 0, stage_ = 0;
  unsigned phase_ = 0;
};

}  // namespace laparoflow::cuda
