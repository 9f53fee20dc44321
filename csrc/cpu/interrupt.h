// Ctrl-C during a long call: the calling thread asks Python between blocks, and no thread takes another block.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace laparoflow::cpu {

class Interrupt {
 public:
  // Whether to stop; for all threads of a call, each before its next block.
  bool seen();
  // Throws where the call was stopped. Python has the signal again, and handles it as soon as it goes on (autograd.py).
  void raise() const;

 private:
  const std::thread::id caller_ = std::this_thread::get_id();
  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
  std::atomic<bool> seen_{false};
};

}  // namespace laparoflow::cpu
