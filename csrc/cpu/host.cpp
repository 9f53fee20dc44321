#include "host.h"

#include <cmath>
#include <cstdlib>

namespace laparoflow::cpu {

Side make_side(const char* name, const Tensor& data, const Tensor& flow, const Tensor& offsets,
               const std::optional<Tensor>& mask, at::ScalarType accumulator) {
  TORCH_CHECK_VALUE(data.dim() == 2, name, ": expected a packed [T, D] tensor, got ", data.sizes());
  TORCH_CHECK_VALUE(flow.dim() == 2 && flow.size(0) == data.size(0) && flow.size(1) >= 1 && flow.size(1) <= kMaxFlowChannels,
                    name, "_flow: expected [", data.size(0), ", F] with F in 1..", kMaxFlowChannels, ", got ", flow.sizes());
  TORCH_CHECK_TYPE(flow.scalar_type() == accumulator, name, "_flow: expected dtype ", accumulator, ", got ",
                   flow.scalar_type());
  Side side;
  side.total = data.size(0);
  const Tensor edges = offsets.contiguous();
  const int64_t* edge = edges.data_ptr<int64_t>();
  side.offsets.assign(edge, edge + edges.numel());
  TORCH_CHECK_VALUE(!side.offsets.empty() && side.offsets.front() == 0 && side.offsets.back() == side.total, name,
                    "_offsets: expected to run from 0 to ", side.total);
  for (std::size_t b = 1; b < side.offsets.size(); ++b)
    TORCH_CHECK_VALUE(side.offsets[b - 1] <= side.offsets[b], name, "_offsets: expected to rise, got ", side.offsets[b],
                      " after ", side.offsets[b - 1]);
  TORCH_CHECK_VALUE(!mask || (mask->dim() == 1 && mask->size(0) == side.total), name, "_mask: expected [", side.total,
                    "], got ", mask ? mask->sizes() : at::IntArrayRef{});
  if (mask && !mask->all().item<bool>()) {
    const Tensor keep = mask->contiguous();
    side.kept = keep.nonzero().view(-1);
    side.data = data.index_select(0, *side.kept);
    side.flow = flow.index_select(0, *side.kept);
    const bool* kept = keep.data_ptr<bool>();
    int64_t count = 0, at = 0;
    for (auto& offset : side.offsets) {
      for (; at < offset; ++at) count += kept[at];
      offset = count;
    }
  } else {
    side.data = data.contiguous();
    side.flow = flow.contiguous();
  }
  TORCH_CHECK_VALUE(all_finite(side.flow), name, "_flow: expected finite values wherever the mask is True");
  return side;
}

// The two scans below run at every call: one pass each, where chains of ATen calls make a pass and a tensor per step.
namespace {

template <class T>
bool finite_values(const T* x, int64_t n) {
  T zero = 0;
#pragma omp simd reduction(+ : zero)
  for (int64_t i = 0; i < n; ++i) zero += x[i] * 0;  // NaN as soon as one entry is not finite
  return zero == 0;
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

template <class T>
double norms_maximum(const Tensor& x) {
  constexpr int64_t kGrain = 1 << 16;
  const int64_t dim = x.size(1);
  const T* base = x.const_data_ptr<T>();
  // a maximum that a NaN wins
  const auto larger = [](double a, double b) { return a <= b || std::isnan(b) ? b : a; };
  return at::parallel_reduce(
      int64_t(0), x.size(0), std::max<int64_t>(1, kGrain / dim), 0.0,
      [&](int64_t begin, int64_t end, double largest) {
        for (int64_t i = begin; i < end; ++i) largest = larger(largest, row_norm(base + i * dim, dim));
        return largest;
      },
      larger);
}

}  // namespace

bool all_finite(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? finite_values(x.const_data_ptr<double>(), x.numel())
                                        : finite_values(x.const_data_ptr<float>(), x.numel());
}

double largest_norm(const Tensor& x) {
  if (x.numel() == 0) return 0;
  if (x.scalar_type() == at::kFloat) return norms_maximum<float>(x);
  if (x.scalar_type() == at::kDouble) return norms_maximum<double>(x);
  return at::linalg_vector_norm(x, 2, at::IntArrayRef{1}, false, at::kFloat).max().template item<double>();
}

FlowKernel parse_flow_kernel(const std::string& name) {
  if (name == "gaussian") return FlowKernel::kGaussian;
  if (name == "laplace") return FlowKernel::kLaplace;
  if (name == "cauchy") return FlowKernel::kCauchy;
  TORCH_CHECK_VALUE(name == "tophat", "flow_kernel: expected gaussian, laplace, cauchy or tophat, got ", name);
  return FlowKernel::kTophat;
}

Element element_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Element::kFloat;
    case at::kDouble:
      return Element::kDouble;
    case at::kBFloat16:
      return Element::kBFloat16;
    default:
      TORCH_CHECK_TYPE(type == at::kHalf, "expected dtype float32, float64, bfloat16 or float16, got ", type);
      return Element::kHalf;
  }
}

namespace {

enum class Isa { kPortable, kAvx2, kAvx512 };

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
      const std::string name = wanted;
      TORCH_CHECK_VALUE(name == "portable" || name == "avx2" || name == "avx512",
                        "LAPAROFLOW_CPU_ISA: expected portable, avx2 or avx512, got ", name);
      best = std::min(best, name == "portable" ? Isa::kPortable : name == "avx2" ? Isa::kAvx2 : Isa::kAvx512);
    }
    return best;
  }();
  return isa;
}

}  // namespace

template <class T>
const Engine<T>& engine() {
  switch (chosen_isa()) {
    case Isa::kAvx512:
      return *avx512_engine<T>();
    case Isa::kAvx2:
      return *avx2_engine<T>();
    default:
      return *portable_engine<T>();
  }
}
template const Engine<float>& engine<float>();
template const Engine<double>& engine<double>();

bool has_native_bf16() {
#if defined(__x86_64__)
  static const bool has = chosen_isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

const char* engine_name() {
  switch (chosen_isa()) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

}  // namespace laparoflow::cpu
