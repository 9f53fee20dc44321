// The half kernels of the sm_80 path.
#include "launch.cuh"

namespace laparoflow::cuda {

template ForwardPlan plan_forward<EngineHalf<Half>>(const Problem&, const DeviceLimits&);
template Status launch_forward<EngineHalf<Half>>(const ForwardArguments&, Stream);
template BackwardPlan plan_backward<EngineHalf<Half>>(const Problem&, const DeviceLimits&, bool);
template Status launch_backward<EngineHalf<Half>>(const BackwardArguments&, Stream);
template Status launch_finish<EngineHalf<Half>>(const FinishArguments&, Stream);

}  // namespace laparoflow::cuda
