// The float16 kernels of the sm_80 path.
#include "kernels.cuh"

namespace laparoflow::cuda {

LAPAROFLOW_ENGINE(template, EngineHalf<Half>);

}  // namespace laparoflow::cuda
