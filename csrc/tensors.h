// Tensors by torch's stable interface, and the few helpers that the operators of both devices share.
//
// TORCH_TARGET_VERSION (setup.py) names the oldest torch that the extension runs beside; every newer one serves as well.
// An error is a std::invalid_argument, which torch hands to Python as a ValueError.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace laparoflow {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

/// Throws with the parts as its message unless `condition` holds.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline std::string shape_of(const Tensor& x) {
  std::string text = "[";
  for (const std::int64_t size : x.sizes()) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

inline std::string name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    default:
      return torch::headeronly::toString(type);
  }
}

inline Tensor row_major(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

/// The frames of a side in host memory: its `count` offsets rise from 0 to `total`, none has more than `longest` rows.
inline void check_offsets(const char* side, const std::int64_t* edges, std::size_t count, std::int64_t total,
                          std::int64_t longest) {
  check(count > 0 && edges[0] == 0 && edges[count - 1] == total, side, "_offsets: expected to run from 0 to ", total);
  for (std::size_t b = 1; b < count; ++b) {
    check(edges[b - 1] <= edges[b], side, "_offsets: expected to rise, got ", edges[b], " after ", edges[b - 1]);
    check(edges[b] - edges[b - 1] <= longest, "max_", side, ": expected at least ", edges[b] - edges[b - 1],
          ", the rows of frame ", b - 1, ", got ", longest);
  }
}

/// Uninitialised, on the device of `like`.
inline Tensor empty_on(const Tensor& like, std::initializer_list<std::int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(like, {sizes.begin(), sizes.size()}, type);
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

}  // namespace laparoflow
