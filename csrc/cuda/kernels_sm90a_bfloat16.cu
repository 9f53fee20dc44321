// The bfloat16 kernels of the sm_90a path; empty on other architectures.
#include "engine_sm90a.cuh"
#include "launch.cuh"

namespace laparoflow::cuda {

template ForwardPlan plan_forward<EngineWarpgroup<BFloat16>>(const Problem&, const DeviceLimits&);
template Status launch_forward<EngineWarpgroup<BFloat16>>(const ForwardArguments&, Stream);
template BackwardPlan plan_backward<EngineWarpgroup<BFloat16>>(const Problem&, const DeviceLimits&, bool);
template Status launch_backward<EngineWarpgroup<BFloat16>>(const BackwardArguments&, Stream);
template Status launch_finish<EngineWarpgroup<BFloat16>>(const FinishArguments&, Stream);

}  // namespace laparoflow::cuda
