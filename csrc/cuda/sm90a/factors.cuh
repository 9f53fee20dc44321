// The exponents of gaussian weights as a matrix product: 16 half-precision numbers of a row times 16 of a column.
//
//   u = c (f_i - o), v = c (g_j - o)           c^2 = log2(e) / 2 / bandwidth^2, o the origin of the frame
//   log2 w_ij = -|u - v|^2 = 2 u . v - |u|^2 - |v|^2
//
// A component of u or v is the sum of two halves, a squared length of three, so that the product misses log2 w by some
// 2^-22 of the largest of its terms. These cancel: the expansion serves where |u| and |v| are at most kReach, and tiles
// that hold more take the difference first. With any origin the formula is exact; one amid the flows keeps the terms small.
// A row without weight has -kFarExponent in place of -|u|^2, and so has a column: w is 0 without a test.
#pragma once

#include "../common/tiles.cuh"

namespace laparoflow::cuda {

constexpr int kFactors = 16;
constexpr float kReach = 16.0f;
constexpr float kFarExponent = 60000.0f;

/// Of 64 rows or columns: groups of 8, each two blocks of 8 x 16 bytes, numbers 0 to 7 and then 8 to 15.
constexpr int kFactorBlock = 8 * 16, kFactorGroup = 2 * kFactorBlock;
constexpr int kFactorBytes = 8 * kFactorGroup;

/// What a number is without its nearest half, which goes to `half`.
LAPAROFLOW_DEVICE float split(float x, float& half) {
  half = half_to_float(pack_pair(x, 0.0f, Half{}));
  return x - half;
}

/// The factors of one row (or, with `of_columns`, of a column); u, v in the units above.
struct PixelFactors {
  float at[kFactors];

  LAPAROFLOW_DEVICE PixelFactors(float x, float y, bool counts, bool of_columns) {
    const float components[2] = {counts ? x : 0.0f, counts ? y : 0.0f};
    float length = 0.0f;  // of what the halves add up to, so that equal flows are at no distance
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float high, low;
      split(split(components[i], high), low);
      length = DeviceMath::fma(high + low, high + low, length);
      const float twice = of_columns ? 2.0f : 1.0f;
      at[4 * i] = twice * high;
      at[4 * i + 1] = twice * (of_columns ? low : high);
      at[4 * i + 2] = twice * (of_columns ? high : low);
      at[4 * i + 3] = twice * low;
    }
    if (!counts) length = kFarExponent;
    const int own = of_columns ? 11 : 8, other = of_columns ? 8 : 11;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      float part;
      length = split(length, part);
      at[own + i] = -part;
      at[other + i] = 1.0f;
    }
    at[14] = at[15] = 0.0f;
  }

  /// Into the image of 64 of them, as number r.
  LAPAROFLOW_DEVICE void store(char* image, int r) const {
    struct alignas(16) Piece {
      std::uint32_t at[4];
    };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Piece piece;
#pragma unroll
      for (int i = 0; i < 4; ++i) piece.at[i] = pack_pair(at[8 * half + 2 * i], at[8 * half + 2 * i + 1], Half{});
      *reinterpret_cast<Piece*>(image + r / 8 * kFactorGroup + half * kFactorBlock + r % 8 * 16) = piece;
    }
  }
};

constexpr int kOriginSamples = 64;

/// The origin of a frame: of each component the median of 64 flows of one side, evenly spread. By all 128 threads of a
/// block, in 130 floats of shared memory.
LAPAROFLOW_DEVICE void find_origin(float (&origin)[2], const Side& side, Range rows, int flow_width) {
  float* samples = reinterpret_cast<float*>(shared_memory());
  const int t = thread_index() % kOriginSamples, f = thread_index() / kOriginSamples;
  const std::int64_t i = rows.begin + t * (rows.end - rows.begin) / kOriginSamples;
  // What does not count is infinite, and so is NaN: behind all others.
  const float infinity = DeviceMath::from_bits(0x7f800000u);
  float mine = counts(side, rows, i) && f < flow_width ? limited_flow(side.flow[i * flow_width + f]) : infinity;
  if (!(mine < infinity)) mine = infinity;
  samples[thread_index()] = mine;
  float* medians = samples + 2 * kOriginSamples;
  if (t == 0) medians[f] = 0.0f;
  block_barrier();
  int before = 0, finite = 0;
  for (int s = 0; s < kOriginSamples; ++s) {
    const float other = samples[f * kOriginSamples + s];
    before += other < mine || (other == mine && s < t);
    finite += other < infinity;
  }
  if (mine < infinity && before == finite / 2) medians[f] = mine;
  block_barrier();
  for (int c = 0; c < 2; ++c) origin[c] = medians[c];
}

}  // namespace laparoflow::cuda
