// Which kernel of sm_90a serves a problem.
#pragma once

#include "../host/launch.cuh"
#include "backward.cuh"
#include "forward.cuh"

namespace laparoflow::cuda {

template <class T>
struct Kernels<EngineWarpgroup<T>> {
  using Engine = EngineWarpgroup<T>;
  static constexpr int depth_tiles(int depth) { return ceil_div(depth, 64) * 8; }
  static int row_tiles(const Problem& p, bool one_pass) {
    return Engine::row_images(depth_tiles(p.depth), one_pass && !p.symmetric && FixedOptions::serves(p));
  }
  static int backward_warps(int depth) { return Engine::backward_warps(depth_tiles(depth)); }
  static constexpr int kForwardBlocks = 1;
  static int backward_blocks(int) { return kForwardBlocks; }
  static int scores_bytes(int rows) { return ScoreBuffers<Engine>::bytes(rows); }

  static auto forward(const Problem& p) -> void (*)(ForwardArguments) {
    const auto of_form = [&](auto options) {
      using Options = typename decltype(options)::Type;
      return p.depth <= 64    ? warpgroup_forward_kernel<Engine, 1, Options>
             : p.depth <= 128 ? warpgroup_forward_kernel<Engine, 2, Options>
             : p.depth <= 192 ? warpgroup_forward_kernel<Engine, 3, Options>
                              : warpgroup_forward_kernel<Engine, 4, Options>;
    };
    if (FixedOptions::serves(p))
      return p.weight_stats ? of_form(Form<DefaultForm<false, true>>{}) : of_form(Form<FixedOptions>{});
    if (InsideOptions::serves(p))
      return p.weight_stats ? of_form(Form<DefaultForm<true, true>>{}) : of_form(Form<InsideOptions>{});
    return of_form(Form<GeneralOptions>{});
  }

  template <int kDepthTiles, class Options, Terms kTerms, bool kOnePass>
  static auto backward_for() -> void (*)(BackwardArguments) {
    return warpgroup_backward_kernel<Engine, kDepthTiles, Options, kTerms, kOnePass>;
  }
  static auto backward(const BackwardArguments& a) -> void (*)(BackwardArguments) {
    const auto of_depth = [&](auto tiles) {
      constexpr int kTiles = decltype(tiles)::value;
      return FixedOptions::serves(a.problem)    ? backward_of_form<Kernels, Engine, kTiles, FixedOptions>(a)
             : InsideOptions::serves(a.problem) ? backward_of_form<Kernels, Engine, kTiles, InsideOptions>(a)
                                                : backward_of_any<Kernels, Engine, kTiles, GeneralOptions>(a);
    };
    switch (depth_tiles(a.problem.depth)) {
      case 8:
        return of_depth(Count<8>{});
      case 16:
        return of_depth(Count<16>{});
      case 24:
        return of_depth(Count<24>{});
      default:
        return of_depth(Count<32>{});
    }
  }

  /// Lays out both sides' tiles for the feed.
  static Status write_records(const Problem& p, const Records& rows, const Records& columns, const float* row_coefficients,
                              const float* column_coefficients, Stream stream) {
    if (p.frames == 0) return kSuccess;
    const RecordArguments a{p, row_coefficients, column_coefficients, rows, columns};
    return launch(record_kernel<Engine>, rows.slots + columns.slots + 2, 128, (2 * kOriginSamples + 2) * 4, stream, a);
  }
};

}  // namespace laparoflow::cuda
