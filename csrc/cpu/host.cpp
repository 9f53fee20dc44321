#include "host.h"

#include <cmath>
#include <cstdlib>

#include "convert.h"

namespace laparoflow::cpu {
namespace {

template <class T>
bool finite_values(const T* x, int64_t n) {
  T zero = 0;
#pragma omp simd reduction(+ : zero)
  for (int64_t i = 0; i < n; ++i) zero += x[i] * 0;  // NaN as soon as one entry is not finite
  return zero == 0;
}

bool all_finite(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? finite_values(x.const_data_ptr<double>(), x.numel())
                                               : finite_values(x.const_data_ptr<float>(), x.numel());
}

// Sums of squares in T; where they leave T's range, in double.
template <class T>
double row_norm(const T* row, int64_t dim) {
  T squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t d = 0; d < dim; ++d) squares += row[d] * row[d];
  if (std::isfinite(squares)) return std::sqrt(static_cast<double>(squares));
  double wide = 0;
  for (int64_t d = 0; d < dim; ++d) wide += static_cast<double>(row[d]) * row[d];
  return std::sqrt(wide);
}

// The rows of `kept` of [total, width], any type.
Tensor rows_of(const Tensor& x, const std::vector<int64_t>& kept) {
  const Tensor from = row_major(x), out = empty_on(x, {int64_t(kept.size()), x.size(1)}, x.scalar_type());
  const std::size_t bytes = x.size(1) * x.element_size();
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const char* base = static_cast<const char*>(from.const_data_ptr());
  for (const int64_t i : kept) std::memcpy(to, base + i * bytes, bytes), to += bytes;
  return out;
}

}  // namespace

Tensor Side::scattered(const Tensor& x) const {
  if (!kept) return x;
  const Tensor out = empty_on(x, {total, x.size(1)}, x.scalar_type());
  const std::size_t bytes = x.size(1) * x.element_size();
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const char* from = static_cast<const char*>(x.const_data_ptr());
  std::memset(to, 0, total * bytes);
  for (const int64_t i : *kept) std::memcpy(to + i * bytes, from, bytes), from += bytes;
  return out;
}

Side make_side(const char* name, const Tensor& data, const Tensor& flow, const Tensor& offsets, const OptionalTensor& mask,
               const OptionalTensor& group, ScalarType accumulator, int64_t longest) {
  check(data.dim() == 2, name, ": expected a packed [T, D] tensor, got ", shape_of(data));
  check(flow.dim() == 2 && flow.size(0) == data.size(0) && flow.size(1) >= 1 && flow.size(1) <= kMaxFlowChannels, name,
        "_flow: expected [", data.size(0), ", F] with F in 1..", kMaxFlowChannels, ", got ", shape_of(flow));
  check(flow.scalar_type() == accumulator, name, "_flow: expected dtype ", name_of(accumulator), ", got ",
        name_of(flow.scalar_type()));
  check(offsets.scalar_type() == ScalarType::Long, name, "_offsets: expected dtype int64, got ",
        name_of(offsets.scalar_type()));
  Side side;
  side.total = data.size(0);
  const Tensor edges = row_major(offsets);
  const int64_t* edge = edges.const_data_ptr<int64_t>();
  side.offsets.assign(edge, edge + edges.numel());
  check_offsets(name, edge, side.offsets.size(), side.total, longest);
  const auto per_pixel = [&](const OptionalTensor& x, const char* part, ScalarType type) {
    if (!x) return;
    check(x->dim() == 1 && x->size(0) == side.total, name, part, ": expected [", side.total, "], got ", shape_of(*x));
    check(x->scalar_type() == type, name, part, ": expected dtype ", name_of(type), ", got ", name_of(x->scalar_type()));
  };
  per_pixel(mask, "_mask", ScalarType::Bool);
  per_pixel(group, "_group", ScalarType::Long);
  if (group) {
    const Tensor ids = row_major(*group);
    side.group.assign(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + side.total);
  }
  if (mask) {
    const Tensor keep = row_major(*mask);
    const bool* kept = keep.const_data_ptr<bool>();
    if (std::find(kept, kept + side.total, false) != kept + side.total) {
      side.kept.emplace();
      for (int64_t i = 0; i < side.total; ++i)
        if (kept[i]) side.kept->push_back(i);
      int64_t count = 0, at = 0;
      for (auto& offset : side.offsets) {
        for (; at < offset; ++at) count += kept[at];
        offset = count;
      }
      for (std::size_t i = 0; group && i < side.kept->size(); ++i) side.group[i] = side.group[(*side.kept)[i]];
    }
  }
  side.data = side.kept ? rows_of(data, *side.kept) : row_major(data);
  side.flow = side.kept ? rows_of(flow, *side.kept) : row_major(flow);
  check(all_finite(side.flow), name, "_flow: expected finite values wherever the mask is True");
  return side;
}

void check_frames(const Side& query, const Side& key, const Tensor& inv_bandwidth) {
  check(query.offsets.size() == key.offsets.size() && inv_bandwidth.numel() + 1 == int64_t(query.offsets.size()),
        "expected the same number of frames in query, key and bandwidth");
  check(query.flow.size(1) == key.flow.size(1), "key_flow: expected F=", query.flow.size(1), ", got ", key.flow.size(1));
}

double largest_norm(const Tensor& x) {
  constexpr int64_t kGrain = 1 << 16;
  const int64_t rows = x.size(0), dim = x.size(1);
  const Element element = element_of(x.scalar_type());
  const void* base = x.const_data_ptr();
  std::vector<double> norms(rows);
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrain / dim), [&](int64_t begin, int64_t end) {
    std::vector<float> row(dim);
    for (int64_t i = begin; i < end; ++i) {
      if (element == Element::kDouble) {
        norms[i] = row_norm(static_cast<const double*>(base) + i * dim, dim);
      } else if (element == Element::kFloat) {
        norms[i] = row_norm(static_cast<const float*>(base) + i * dim, dim);
      } else {
        convert_row(base, element, i * dim, dim, row.data());
        norms[i] = row_norm(row.data(), dim);
      }
    }
  });
  double largest = 0;
  for (const double norm : norms) largest = largest <= norm || std::isnan(norm) ? norm : largest;  // NaN wins, and stays
  return largest;
}

Element element_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return Element::kFloat;
    case ScalarType::Double:
      return Element::kDouble;
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    default:
      check(type == ScalarType::Half, "expected dtype float32, float64, bfloat16 or float16, got ", name_of(type));
      return Element::kHalf;
  }
}

namespace {

enum class Isa { kPortable, kAvx2, kAvx512 };

constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512"};

// LAPAROFLOW_CPU_ISA=portable|avx2|avx512 forces a lower level than the processor offers
Isa chosen_isa() {
  static const Isa isa = [] {
    Isa best = Isa::kPortable;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::kAvx2;
    if (best == Isa::kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
      best = Isa::kAvx512;
#endif
    if (const char* wanted = std::getenv("LAPAROFLOW_CPU_ISA")) {
      const auto found = std::find(std::begin(kIsaNames), std::end(kIsaNames), std::string(wanted));
      check(found != std::end(kIsaNames), "LAPAROFLOW_CPU_ISA: expected portable, avx2 or avx512, got ", wanted);
      best = std::min(best, static_cast<Isa>(found - kIsaNames));
    }
    return best;
  }();
  return isa;
}

}  // namespace

template <class T>
const Engine<T>& engine() {
  switch (chosen_isa()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return *avx512_engine<T>();
    case Isa::kAvx2:
      return *avx2_engine<T>();
#endif
    default:
      return *portable_engine<T>();
  }
}
template const Engine<float>& engine<float>();
template const Engine<double>& engine<double>();

void wait_for_turn(const Turn& turn, int64_t key) {
  for (int looks = 0; __atomic_load_n(turn.before, __ATOMIC_ACQUIRE) < key && !turn.interrupt->seen(); ++looks)
    if (looks > 100) std::this_thread::yield();
}

bool has_native_bf16() {
#if defined(__x86_64__)
  static const bool has = chosen_isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

const char* engine_name() { return kIsaNames[static_cast<int>(chosen_isa())]; }

}  // namespace laparoflow::cpu
