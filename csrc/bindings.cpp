// The Python module laparoflow_kernels._C: loading it registers the kernels (TORCH_LIBRARY_IMPL in the units of each device;
// schemas, fakes and autograd are in laparoflow_kernels/ops.py); build_facts() tells what was built.

#include <pybind11/pybind11.h>

#include <string>

namespace laparoflow::cpu {
const char* engine_name();
}

namespace py = pybind11;

#define LF_STRING_(x) #x
#define LF_STRING(x) LF_STRING_(x)

PYBIND11_MODULE(_C, m) {
  m.def("build_facts", [] {
    py::dict facts;
    facts["compiler"] = std::string(__VERSION__);
    facts["torch"] = std::string(LF_TORCH_VERSION);
#ifdef _OPENMP
    facts["cpu_threads"] = std::string("openmp");
#else
    facts["cpu_threads"] = std::string("one thread: built without -fopenmp");
#endif
    facts["cpu_capability"] = std::string(laparoflow::cpu::engine_name());
#ifdef LF_WITH_CUDA
    facts["cuda"] = std::string(LF_CUDA_VERSION);
    facts["cuda_architectures"] = std::string(LF_CUDA_ARCHITECTURES);
    facts["no_cuda_reason"] = py::none();
#else
    facts["cuda"] = py::none();
    facts["cuda_architectures"] = std::string();
    facts["no_cuda_reason"] = std::string(LF_NO_CUDA_REASON);
#endif
    return facts;
  });
}
