#include "interrupt.h"

#include <dlfcn.h>

#include <stdexcept>

namespace laparoflow::cpu {
namespace {

constexpr std::chrono::milliseconds kBetweenQuestions{50};

// Python's own functions, all of its stable interface; without Python in the process there are none.
template <class Function>
Function* python(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

// Runs Python's handlers of the signals that have come; true where one of them raised. A handler that raises is called once
// more, as for a second signal, since its exception cannot pass through torch.
bool raised_by_signal() {
  static auto* const thread_state = python<void*()>("PyGILState_GetThisThreadState");
  static auto* const ensure = python<int()>("PyGILState_Ensure");
  static auto* const release = python<void(int)>("PyGILState_Release");
  static auto* const check = python<int()>("PyErr_CheckSignals");
  static auto* const clear = python<void()>("PyErr_Clear");
  static auto* const interrupt = python<void()>("PyErr_SetInterrupt");
  if (!thread_state || !ensure || !release || !check || !clear || !interrupt) return false;
  if (thread_state() == nullptr) return false;  // no thread of Python's, which might wait for one that is
  const int state = ensure();
  const bool raised = check() != 0;
  if (raised) {
    clear();
    interrupt();
  }
  release(state);
  return raised;
}

}  // namespace

bool Interrupt::seen() {
  if (std::this_thread::get_id() == caller_ && !seen_) {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ >= kBetweenQuestions) {
      asked_ = now;
      if (raised_by_signal()) seen_ = true;
    }
  }
  return seen_;
}

void Interrupt::raise() const {
  if (seen_) throw std::runtime_error("interrupted by a signal");
}

}  // namespace laparoflow::cpu
