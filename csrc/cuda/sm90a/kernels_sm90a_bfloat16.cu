// The bfloat16 kernels of the sm_90a path; empty on other architectures.
#include "kernels.cuh"

namespace laparoflow::cuda {

LAPAROFLOW_ENGINE(template, EngineWarpgroup<BFloat16>);

}  // namespace laparoflow::cuda
