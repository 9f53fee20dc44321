// The float16 kernels of the sm_90a path; empty on other architectures.
#include "engine_sm90a.cuh"
#include "launch.cuh"

namespace laparoflow::cuda {

template ForwardPlan plan_forward<EngineWarpgroup<Half>>(const Problem&, const DeviceLimits&);
template Status launch_forward<EngineWarpgroup<Half>>(const ForwardArguments&, Stream);
template BackwardPlan plan_backward<EngineWarpgroup<Half>>(const Problem&, const DeviceLimits&, bool);
template Status launch_backward<EngineWarpgroup<Half>>(const BackwardArguments&, Stream);
template Status launch_finish<EngineWarpgroup<Half>>(const FinishArguments&, Stream);

}  // namespace laparoflow::cuda
