// Which kernel of sm_80 serves a problem.
#pragma once

#include "../host/launch.cuh"
#include "backward.cuh"
#include "forward.cuh"

namespace laparoflow::cuda {

/// Of the engines with tiles row by row.
template <class Engine>
struct Kernels {
  static constexpr int kForwardBlocks = Engine::kForwardBlocks;  // of a multiprocessor
  /// Row tiles of 16 a warp owns in the backward; two where the gradient's registers allow it.
  static constexpr int row_tiles(int depth) { return depth <= 64 ? Engine::kForwardRowTiles : 1; }
  static int row_tiles(const Problem& p, bool) { return row_tiles(p.depth); }
  static int backward_warps(int depth) { return Engine::backward_warps(row_tiles(depth)); }
  static int backward_blocks(int depth) { return Engine::backward_blocks(row_tiles(depth)); }
  static int scores_bytes(int rows) { return Engine::scores_bytes(rows); }

  static auto forward(const Problem& p) -> void (*)(ForwardArguments) {
    const auto of_form = [&](auto options) {
      using Options = typename decltype(options)::Type;
      constexpr int kTiles = Engine::kForwardRowTiles;
      return p.symmetric ? forward_kernel<Engine, kTiles, Options, true> : forward_kernel<Engine, kTiles, Options, false>;
    };
    if (p.row.group != nullptr) return of_form(Form<GroupedOptions>{});
    if (!FixedOptions::serves(p)) return of_form(Form<GeneralOptions>{});
    // With the sums of columns the form without the weights' statistics spills registers.
    if (p.weight_stats || p.symmetric) return of_form(Form<DefaultForm<false, true>>{});
    return forward_kernel<Engine, Engine::kForwardRowTiles, FixedOptions, false>;
  }

  template <int kDepthTiles, class Options, Terms kTerms, bool kOnePass>
  static auto backward_for() -> void (*)(BackwardArguments) {
    return backward_kernel<Engine, row_tiles(kDepthTiles * 8), kDepthTiles, Options, kTerms, kOnePass>;
  }
  static auto backward(const BackwardArguments& a) -> void (*)(BackwardArguments) {
    const auto of_depth = [&](auto tiles) {
      constexpr int kTiles = decltype(tiles)::value;
      return FixedOptions::serves(a.problem)  ? backward_of_form<Kernels, Engine, kTiles, FixedOptions>(a)
             : a.problem.row.group != nullptr ? backward_of_any<Kernels, Engine, kTiles, GroupedOptions>(a)
                                              : backward_of_any<Kernels, Engine, kTiles, GeneralOptions>(a);
    };
    const int depth = a.problem.depth;
    return depth <= 64 ? of_depth(Count<8>{}) : depth <= 128 ? of_depth(Count<16>{}) : of_depth(Count<32>{});
  }

  static Status write_records(const Problem&, const Records&, const Records&, const float*, const float*, Stream) {
    return kSuccess;
  }
};

}  // namespace laparoflow::cuda
