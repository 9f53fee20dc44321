// Runs forward, backward and weighted sum of a list of problems with generated inputs, for builds with
// a sanitizer: the numbers are tested elsewhere, here any report ends the program with a failure.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "harness.h"
#include "host_instructions.h"

namespace {

struct Random {
  unsigned state;
  float next() {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
  }
};

/// An array with nothing behind it, aligned as an allocator of a device aligns.
template <class T>
struct Array {
  std::size_t count;
  T* data;
  explicit Array(std::size_t count_) : count(count_) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, count * sizeof(T) + (count == 0)) != 0) std::abort();
    data = static_cast<T*>(memory);
    std::memset(data, 0xff, count * sizeof(T));
  }
  ~Array() { std::free(data); }
  Array(const Array&) = delete;
};

struct Option {
  int rows[2], columns[2];
  int depth, width, element, flow_kernel, positives, negatives, scope, symmetric, bounded, shared_memory, path,
      deterministic;
  int grouped = 0;
};

void fill(Array<char>& embedding, std::size_t count, int element, Random& random) {
  for (std::size_t i = 0; i < count; ++i) {
    const float x = 0.3f * random.next();
    if (element == 2) {
      std::memcpy(embedding.data + 4 * i, &x, 4);
    } else {
      const std::uint16_t bits =
          element == 0 ? laparoflow::cuda::simulator::to_bfloat16(x) : laparoflow::cuda::simulator::to_half(x);
      std::memcpy(embedding.data + 2 * i, &bits, 2);
    }
  }
}

bool run(const Option& o, int index) {
  Random random{17u + index};
  const std::size_t tq = o.rows[0] + o.rows[1], tk = o.columns[0] + o.columns[1];
  const std::size_t bytes = o.element == 2 ? 4 : 2;
  Array<char> query(tq * o.depth * bytes), key(tk * o.depth * bytes);
  fill(query, tq * o.depth, o.element, random);
  fill(key, tk * o.depth, o.element, random);
  Array<float> query_flow(tq * o.width), key_flow(tk * o.width), values(tk * 5);
  for (Array<float>* array : {&query_flow, &key_flow, &values})
    for (std::size_t i = 0; i < array->count; ++i) array->data[i] = random.next();
  Array<unsigned char> query_mask(tq), key_mask(tk);
  for (Array<unsigned char>* array : {&query_mask, &key_mask})
    for (std::size_t i = 0; i < array->count; ++i) array->data[i] = random.next() > -0.8f;
  Array<std::int64_t> query_offsets(3), key_offsets(3);
  for (int b = 0; b < 3; ++b) {
    query_offsets.data[b] = b == 0 ? 0 : b == 1 ? o.rows[0] : static_cast<std::int64_t>(tq);
    key_offsets.data[b] = b == 0 ? 0 : b == 1 ? o.columns[0] : static_cast<std::int64_t>(tk);
  }
  Array<float> inv_bandwidth(2);
  inv_bandwidth.data[0] = 1.0f;
  inv_bandwidth.data[1] = 0.5f;

  HostProblem p;
  std::memset(&p, 0, sizeof p);
  p.query = query.data;
  p.key = key.data;
  p.query_flow = query_flow.data;
  p.key_flow = key_flow.data;
  p.query_mask = query_mask.data;
  p.key_mask = key_mask.data;
  p.query_offsets = query_offsets.data;
  p.key_offsets = key_offsets.data;
  p.inv_bandwidth = inv_bandwidth.data;
  p.query_total = static_cast<std::int64_t>(tq);
  p.key_total = static_cast<std::int64_t>(tk);
  p.query_longest = o.rows[0] > o.rows[1] ? o.rows[0] : o.rows[1];
  p.key_longest = o.columns[0] > o.columns[1] ? o.columns[0] : o.columns[1];
  p.temperature = 0.1f;
  p.frames = 2;
  p.depth = o.depth;
  p.flow_width = o.width;
  p.element = o.element;
  p.full_float = 1;
  p.aligned = o.depth * bytes % 16 == 0;
  p.flow_kernel = o.flow_kernel;
  p.positives = o.positives;
  p.negatives = o.negatives;
  p.scope = o.scope;
  p.symmetric = o.symmetric;
  p.bounded = o.bounded;
  p.multiprocessors = 4;
  p.shared_memory = o.shared_memory * 1024;
  p.path = o.path;
  p.deterministic = o.deterministic;
  p.weight_stats = index % 2;
  Array<std::int64_t> query_group(tq), key_group(tk);
  for (Array<std::int64_t>* array : {&query_group, &key_group})
    for (std::size_t i = 0; i < array->count; ++i) array->data[i] = static_cast<std::int64_t>(i % 7) << 31;
  if (o.grouped) p.query_group = query_group.data, p.key_group = key_group.data;

  Array<float> row_stats(4 * tq), column_stats(o.symmetric ? 4 * tk : 0);
  Array<float> row_grad(2 * tq), column_grad(o.symmetric ? 2 * tk : 0);
  for (Array<float>* array : {&row_grad, &column_grad})
    for (std::size_t i = 0; i < array->count; ++i) array->data[i] = random.next();
  Array<char> dquery(query.count), dkey(key.count);
  Array<float> dtemperature(1), sums(5 * tq), weight_sum(tq);
  const bool good = laparoflow_host_forward(&p, row_stats.data, column_stats.data) == 0 &&
                    laparoflow_host_backward(&p, row_stats.data, column_stats.data, row_grad.data, column_grad.data,
                                             dquery.data, dkey.data, dtemperature.data) == 0 &&
                    laparoflow_host_weighted_sum(&p, values.data, 5, sums.data, weight_sum.data) == 0;
  if (!good) std::fprintf(stderr, "%s\n", laparoflow_host_message());
  if (good && !std::isfinite(dtemperature.data[0])) {
    std::fprintf(stderr, "dtemperature is not finite\n");
    return false;
  }
  return good;
}

}  // namespace

int main() {
  const Option options[] = {
      // rows, columns, depth, width, element, kernel, positives, negatives, scope, symmetric, bounded, KiB, path,
      // deterministic, grouped
      {{65, 3}, {70, 66}, 16, 2, 0, 0, 0, 0, 0, 1, 1, 163, 0, 0},
      {{130, 0}, {70, 5}, 72, 2, 0, 0, 0, 0, 0, 0, 1, 163, 0, 0},
      {{30, 9}, {40, 66}, 31, 5, 1, 1, 1, 1, 1, 1, 0, 163, 0, 0},
      {{20, 9}, {33, 31}, 24, 1, 2, 2, 1, 0, 1, 1, 0, 163, 0, 0},
      {{65, 1}, {33, 40}, 136, 8, 2, 3, 0, 1, 0, 0, 0, 99, 0, 0},
      {{65, 1}, {65, 1}, 200, 2, 0, 0, 0, 0, 0, 1, 1, 56, 0, 0},
      {{65, 1}, {70, 65}, 72, 2, 0, 0, 0, 0, 0, 1, 1, 227, 1, 0},
      {{30, 1}, {40, 65}, 31, 3, 1, 1, 1, 1, 1, 0, 0, 227, 1, 0},
      // the ring of stages goes round; one warpgroup with two stages
      {{70, 1}, {400, 65}, 16, 2, 0, 0, 0, 0, 0, 0, 1, 227, 1, 0},
      {{130, 1}, {270, 3}, 16, 2, 0, 0, 0, 0, 0, 1, 1, 48, 1, 1},
      {{65, 3}, {70, 66}, 16, 1, 0, 0, 1, 0, 1, 1, 0, 163, 0, 0, 1},
      {{33, 3}, {70, 5}, 24, 8, 2, 0, 0, 1, 0, 0, 1, 163, 0, 1, 1},
  };
  int index = 0;
  for (const Option& option : options) {
    if (!run(option, index)) {
      std::fprintf(stderr, "case %d failed\n", index);
      return 1;
    }
    ++index;
  }
  std::printf("%d cases\n", index);
  return 0;
}
