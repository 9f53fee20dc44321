// What the library tells of itself at run time; loading it registers the kernels (STABLE_TORCH_LIBRARY_IMPL in the units of
// each device). Schemas, fakes and autograd are in laparoflow_kernels/ops.py, the facts of the build in _C.json.

#include "tensors.h"

namespace laparoflow {
namespace cpu {
const char* engine_name();
}

// The instruction set of the CPU kernels on this processor: avx512, avx2 or portable.
std::string cpu_capability() { return cpu::engine_name(); }

STABLE_TORCH_LIBRARY_FRAGMENT(laparoflow, m) { m.def("cpu_capability() -> str"); }
STABLE_TORCH_LIBRARY_IMPL(laparoflow, CompositeExplicitAutograd, m) { m.impl("cpu_capability", TORCH_BOX(&cpu_capability)); }

}  // namespace laparoflow
