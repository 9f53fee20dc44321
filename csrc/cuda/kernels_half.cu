// The half kernels of the sm_80 path.
#include "launch.cuh"

namespace laparoflow::cuda {

template ForwardPlan plan_forward<EngineHalf<Half>>(const Problem&, const DeviceLimits&);
template Status launch_forward<EngineHalf<Half>>(const ForwardArguments&, Stream);
template BackwardPlan plan_backward<EngineHalf<Half>>(const Problem&, const DeviceLimits&);
template Status launch_backward<EngineHalf<Half>>(const BackwardArguments&, Stream);

}  // namespace laparoflow::cuda
