// The float32 kernels of the sm_80 path.
#include "kernels.cuh"

namespace laparoflow::cuda {

LAPAROFLOW_ENGINE(template, EngineFloat);

}  // namespace laparoflow::cuda
