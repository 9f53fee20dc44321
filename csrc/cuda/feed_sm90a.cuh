// How tiles reach shared memory on sm_90a: a producer thread moves each tile with one bulk copy (TMA), mbarriers tell
// the computing warpgroups when a stage is full and the producer when it is empty.
//
// A tile is one bulk copy because `record_kernel` has laid it out before, in the workspace: 64 rows of one side, with
// their embeddings in the swizzled image that wgmma reads, zero where a row is masked or the tile is ragged, then
// flows, marks and coefficients. So a copy needs no tensor map, no alignment of the caller's rows, no bounds. Records
// never hold rows of two frames: frame b's first is slot offsets[b] / 64 + b, which leaves room for all of its tiles;
// slots in between and one behind the last are empty tiles. Cost: N x D x 2 bytes a side, read and written once.
#pragma once

#include "engine_sm90a.cuh"
#include "feed_sm80.cuh"

namespace laparoflow::cuda {

LAPAROFLOW_HOST_DEVICE int to_multiple(int x, int of) { return (x + of - 1) / of * of; }

/// The rows a record holds, behind its numbers in shared memory.
struct alignas(16) RecordRows {
  std::int64_t begin, end;
};

template <class Engine>
LAPAROFLOW_HOST_DEVICE int record_bytes(int depth, int flow_width, int coefficients) {
  return ColumnStage<Engine>::bytes(depth, flow_width, coefficients) + static_cast<int>(sizeof(RecordRows));
}

struct RecordArguments {
  Side side;
  int frames = 0, depth = 0, flow_width = 0;
  float far = 0.0f;                     // the mark of a row without weight
  const float* coefficients = nullptr;  // [kCoefficients, total] or null
  int coefficient_space = 0;
  bool aligned = false;
  Records records;
};

/// Writes one record a block; the last block writes the empty one.
template <class Engine>
LAPAROFLOW_KERNEL(128, 1)
record_kernel(RecordArguments a) {
  using Type = typename Engine::Type;
  const std::int64_t slot = block_index();
  const int low = frame_of_slot(a.side, a.frames, slot);
  const Range frame = frame_range(a.side, low);
  // In a gap, and in the slot behind the last, all rows lie behind the frame's end.
  const std::int64_t first = frame.begin + (slot - frame.begin / kSlotRows - low) * kSlotRows;
  const DepthLayout<Engine> layout(a.depth);
  char* record = a.records.data + slot * a.records.bytes;
  const ColumnStage<Engine> to(record, layout.padded, a.flow_width);
  const Type* from = static_cast<const Type*>(a.side.embedding);
  constexpr int kVector = Engine::kVector;
  struct alignas(16) Vector {
    Type x[kVector];
  };
  const int vectors = layout.padded / kVector;
  for (int v = thread_index(); v < kSlotRows * vectors; v += thread_count()) {
    const int r = v / vectors, d = v % vectors * kVector;
    const std::int64_t i = first + r;
    Vector values{};
    if (counts(a.side, frame, i)) {
      const Type* row = from + i * a.depth;
      if (a.aligned && d < a.depth)
        values = *reinterpret_cast<const Vector*>(row + d);
      else
        for (int e = 0; e < kVector; ++e)
          if (d + e < a.depth) values.x[e] = row[d + e];
    }
    *reinterpret_cast<Vector*>(to.embedding + Engine::tile_offset(r, d, kSlotRows, layout.padded)) = values;
  }
  to.load_numbers(a.side, frame, frame, first, a.flow_width, a.far, a.coefficients,
                  a.coefficients != nullptr ? kCoefficients : 0);
  if (thread_index() == 0)
    *reinterpret_cast<RecordRows*>(record + a.records.bytes - sizeof(RecordRows)) = {
        first, first + kSlotRows < frame.end ? first + kSlotRows : frame.end};
}

template <class T>
class Feed<EngineWarpgroup<T>> {
  using Engine = EngineWarpgroup<T>;

 public:
  static constexpr int kProducerThreads = 128;
  static constexpr int kMostStages = 4;
  static constexpr bool kTilesCrossFrames = false;

  static int bytes(int warps, int, int stages, int depth, int flow_width, int coefficients) {
    const int record = to_multiple(record_bytes<Engine>(depth, flow_width, coefficients), kSwizzleGroup);
    return (warps / 4 + stages) * record + 2 * (1 + kMostStages) * static_cast<int>(sizeof(Barrier));
  }
  static std::int64_t column_tiles_of_batch(const Side& side, int frames) { return slot_count(side, frames); }

  LAPAROFLOW_DEVICE Feed(const FeedArguments& arguments, char* memory)
      : a_(arguments), depth_(arguments.problem->depth), memory_(memory) {
    record_space_ = to_multiple(a_.column_records.bytes, kSwizzleGroup);
    barriers_ = reinterpret_cast<Barrier*>(memory + (groups() + a_.stages) * record_space_);
    if (thread_index() == 0) {
      barrier_init(row_full(), 1);
      barrier_init(row_empty(), computing());
      for (int s = 0; s < a_.stages; ++s) {
        barrier_init(full(s), 1);
        barrier_init(empty(s), computing());
      }
      barrier_init_publish();
    }
    block_barrier();
  }

  template <int kCount>
  LAPAROFLOW_DEVICE void give_registers() const {
    lower_registers<kCount>();
  }
  template <int kCount>
  LAPAROFLOW_DEVICE void take_registers() const {
    raise_registers<kCount>();
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
  /// The columns of a tile, from its record in global memory.
  LAPAROFLOW_DEVICE Range columns(int tile) const {
    const RecordRows& rows = *reinterpret_cast<const RecordRows*>(
        a_.column_records.data + (first_slot_ + tile + 1) * a_.column_records.bytes - sizeof(RecordRows));
    return {rows.begin, rows.end};
  }
  /// The same from the stage.
  LAPAROFLOW_DEVICE Range present_columns(int) const {
    const RecordRows& rows = *reinterpret_cast<const RecordRows*>(at_stage() + a_.column_records.bytes - sizeof(RecordRows));
    return {rows.begin, rows.end};
  }

  LAPAROFLOW_DEVICE std::int64_t slot(int tile) const { return first_slot_ + tile; }

  /// The producer's side of begin .. end. One thread of the warpgroup does the work.
  LAPAROFLOW_DEVICE void send(int frame, std::int64_t first_row) {
    if (thread_index() != computing()) return;
    const Range own = frame_slots(problem().row, frame);
    const std::int64_t slot = own.begin + (first_row - problem().row.offsets[frame]) / kSlotRows;
    barrier_wait(row_empty(), (row_uses_ & 1) ^ 1);
    ++row_uses_;
    barrier_arrive_expect(row_full(), groups() * a_.row_records.bytes);
    for (int g = 0; g < groups(); ++g) {
      const std::int64_t from = slot + g < own.end ? slot + g : a_.row_records.slots;
      bulk_copy(memory_ + g * record_space_, a_.row_records.data + from * a_.row_records.bytes, a_.row_records.bytes,
                row_full());
    }
    for (int tile = 0; tile < tiles_; ++tile) {
      barrier_wait(empty(stage_), phase_ ^ 1);
      barrier_arrive_expect(full(stage_), a_.column_records.bytes);
      bulk_copy(at_stage(), a_.column_records.data + (first_slot_ + tile) * a_.column_records.bytes, a_.column_records.bytes,
                full(stage_));
      next_stage();
    }
  }

  LAPAROFLOW_DEVICE void begin(int frame, std::int64_t) {
    const Range own = frame_slots(problem().column, frame);
    first_weights_ = own.begin - first_slot_;
    last_weights_ = own.end - first_slot_;
    barrier_wait(row_full(), row_uses_ & 1);
    ++row_uses_;
  }
  LAPAROFLOW_DEVICE ColumnStage<Engine> acquire(int) {
    barrier_wait(full(stage_), phase_);
    return ColumnStage<Engine>(at_stage(), depth_.padded, problem().flow_width);
  }
  LAPAROFLOW_DEVICE void release(int) {
    barrier_arrive(empty(stage_));
    next_stage();
  }
  LAPAROFLOW_DEVICE void end() { barrier_arrive(row_empty()); }
  LAPAROFLOW_DEVICE void barrier() const { named_barrier(1, computing()); }

  LAPAROFLOW_DEVICE bool holds_weights(int tile) const { return tile >= first_weights_ && tile < last_weights_; }
  LAPAROFLOW_DEVICE RowTile<Engine> rows() const {
    const ColumnStage<Engine> record(memory_ + thread_index() / 128 * record_space_, depth_.padded, problem().flow_width);
    RowTile<Engine> tile(memory_, kSlotRows, depth_.padded, problem().flow_width);
    tile.embedding = record.embedding;
    tile.flow = record.flow;
    tile.mark = record.mark;
    return tile;
  }
  LAPAROFLOW_DEVICE const T* all_rows() const { return reinterpret_cast<const T*>(memory_); }
  LAPAROFLOW_DEVICE int row_pitch() const { return record_space_; }
  LAPAROFLOW_DEVICE int first_of_rows() const { return thread_index() / 128 * kSlotRows; }

 private:
  LAPAROFLOW_DEVICE const Problem& problem() const { return *a_.problem; }
  LAPAROFLOW_DEVICE int groups() const { return a_.warps / 4; }
  LAPAROFLOW_DEVICE int computing() const { return a_.warps * 32; }
  LAPAROFLOW_DEVICE Barrier* row_full() const { return barriers_; }
  LAPAROFLOW_DEVICE Barrier* row_empty() const { return barriers_ + 1; }
  LAPAROFLOW_DEVICE Barrier* full(int stage) const { return barriers_ + 2 + 2 * stage; }
  LAPAROFLOW_DEVICE Barrier* empty(int stage) const { return barriers_ + 3 + 2 * stage; }
  LAPAROFLOW_DEVICE char* at_stage() const { return memory_ + (groups() + stage_) * record_space_; }
  LAPAROFLOW_DEVICE void next_stage() {
    if (++stage_ == a_.stages) {
      stage_ = 0;
      phase_ ^= 1;
    }
  }

  const FeedArguments& a_;
  DepthLayout<Engine> depth_;
  char* memory_;
  Barrier* barriers_;
  int record_space_;
  std::int64_t first_slot_ = 0, first_weights_ = 0, last_weights_ = 0;
  int tiles_ = 0, stage_ = 0;
  unsigned phase_ = 0, row_uses_ = 0;
};

}  // namespace laparoflow::cuda
