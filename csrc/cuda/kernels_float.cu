// The float kernels of the sm_80 path.
#include "launch.cuh"

namespace laparoflow::cuda {

template ForwardPlan plan_forward<EngineFloat>(const Problem&, const DeviceLimits&);
template Status launch_forward<EngineFloat>(const ForwardArguments&, Stream);
template BackwardPlan plan_backward<EngineFloat>(const Problem&, const DeviceLimits&, bool);
template Status launch_backward<EngineFloat>(const BackwardArguments&, Stream);
template Status launch_finish<EngineFloat>(const FinishArguments&, Stream);

}  // namespace laparoflow::cuda
