// The bfloat16 kernels of the sm_80 path.
#include "launch.cuh"

namespace laparoflow::cuda {

template ForwardPlan plan_forward<EngineHalf<BFloat16>>(const Problem&, const DeviceLimits&);
template Status launch_forward<EngineHalf<BFloat16>>(const ForwardArguments&, Stream);
template BackwardPlan plan_backward<EngineHalf<BFloat16>>(const Problem&, const DeviceLimits&, bool);
template Status launch_backward<EngineHalf<BFloat16>>(const BackwardArguments&, Stream);
template Status launch_finish<EngineHalf<BFloat16>>(const FinishArguments&, Stream);

}  // namespace laparoflow::cuda
