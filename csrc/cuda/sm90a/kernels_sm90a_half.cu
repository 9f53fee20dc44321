// The float16 kernels of the sm_90a path; empty on other architectures.
#include "kernels.cuh"

namespace laparoflow::cuda {

LAPAROFLOW_ENGINE(template, EngineWarpgroup<Half>);

}  // namespace laparoflow::cuda
