// Collectives of a warp by the PTX manual's fragment layouts: shuffles, ldmatrix, mma; and the 16-bit types.
#include <cmath>
#include <cstring>

#include "simulator.h"

namespace laparoflow::cuda::simulator {

namespace {

float from_bfloat16(std::uint16_t x) { return DeviceMath::from_bits(static_cast<std::uint32_t>(x) << 16); }

float from_half(std::uint16_t x) {
  const int exponent = (x >> 10) & 31, mantissa = x & 1023;
  float y;
  if (exponent == 31)
    y = mantissa ? NAN : INFINITY;
  else if (exponent == 0)
    y = std::ldexp(static_cast<float>(mantissa), -24);
  else
    y = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return x & 0x8000 ? -y : y;
}

struct MmaIn {
  const std::uint32_t* a;
  std::uint32_t b[2];
  const float* c;
  MmaType type;
};

void run_mma(const void* const* in, void* const* out) {
  const MmaType type = static_cast<const MmaIn*>(in[0])->type;
  const bool wide = type == MmaType::kTf32;
  const int depth = wide ? 8 : 16;
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaIn& x = *static_cast<const MmaIn*>(in[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      const int row = g + (r % 2) * 8;
      if (wide) {
        a[row][t + r / 2 * 4] = DeviceMath::from_bits(x.a[r] & 0xffffe000u);
      } else {
        for (int h = 0; h < 2; ++h) {
          const std::uint16_t bits = static_cast<std::uint16_t>(x.a[r] >> (16 * h));
          a[row][2 * t + h + r / 2 * 8] = from_16_bits(bits, type);
        }
      }
    }
    for (int r = 0; r < 2; ++r) {
      if (wide) {
        b[t + 4 * r][g] = DeviceMath::from_bits(x.b[r] & 0xffffe000u);
      } else {
        for (int h = 0; h < 2; ++h) {
          const std::uint16_t bits = static_cast<std::uint16_t>(x.b[r] >> (16 * h));
          b[2 * t + h + 8 * r][g] = from_16_bits(bits, type);
        }
      }
    }
  }
  double sums[16][8] = {};
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < depth; ++k)
      for (int j = 0; j < 8; ++j) sums[i][j] += static_cast<double>(a[i][k]) * b[k][j];
  for (int lane = 0; lane < 32; ++lane) {
    const float* c = static_cast<const MmaIn*>(in[lane])->c;
    float* to = static_cast<float*>(out[lane]);
    for (int e = 0; e < 4; ++e) to[e] = cut_off(c[e] + sums[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2]);
  }
}

void run_matrices(const void* const* in, void* const* out, bool transposed) {
  for (int m = 0; m < 4; ++m)
    for (int lane = 0; lane < 32; ++lane) {
      std::uint16_t pair[2];
      for (int h = 0; h < 2; ++h) {
        const int row = transposed ? lane % 4 * 2 + h : lane / 4;
        const int column = transposed ? lane / 4 : lane % 4 * 2 + h;
        pair[h] = static_cast<const std::uint16_t*>(in[m * 8 + row])[column];
      }
      static_cast<std::uint32_t*>(out[lane])[m] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
    }
}
void run_matrices_plain(const void* const* in, void* const* out) { run_matrices(in, out, false); }
void run_matrices_transposed(const void* const* in, void* const* out) { run_matrices(in, out, true); }

struct ShuffleIn {
  float value;
  int mask;
};
void run_shuffle(const void* const* in, void* const* out) {
  for (int lane = 0; lane < 32; ++lane)
    *static_cast<float*>(out[lane]) =
        static_cast<const ShuffleIn*>(in[lane ^ static_cast<const ShuffleIn*>(in[lane])->mask])->value;
}

}  // namespace

float from_16_bits(std::uint16_t x, MmaType type) { return type == MmaType::kHalf ? from_half(x) : from_bfloat16(x); }

float shuffle_xor(float value, int lane_mask) {
  const ShuffleIn in{value, lane_mask};
  float out;
  collective(1, &in, &out, run_shuffle);
  return out;
}

void add_to_global(float* to, const float (&x)[4]) {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0) fail("red: address not aligned");
  for (int i = 0; i < 4; ++i) to[i] += x[i];
}

void load_matrices(std::uint32_t (&r)[4], const void* row, bool transposed) {
  check_shared(row, 16, 16, "ldmatrix");
  annotate_read(row, 16);
  collective(transposed ? 3 : 2, row, r, transposed ? run_matrices_transposed : run_matrices_plain);
}

void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, MmaType type) {
  const MmaIn in{a, {b0, b1}, c, type};
  collective(4 + static_cast<int>(type), &in, c, run_mma);
}

float cut_off(double x) {
  const float y = static_cast<float>(x);
  return std::fabs(static_cast<double>(y)) > std::fabs(x) ? std::nextafter(y, 0.0f) : y;
}

std::uint16_t to_bfloat16(float x) {
  const std::uint32_t bits = DeviceMath::to_bits(x);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

std::uint16_t to_half(float x) {
  const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float y = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (y >= 65520.0f) return sign | 0x7c00;
  if (y < 6.103515625e-05f) return sign | static_cast<std::uint16_t>(std::nearbyint(std::ldexp(y, 24)));
  int exponent;
  const float fraction = std::frexp(y, &exponent);                                  // in [0.5, 1)
  const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(fraction, 11)));  // in [1024, 2048]
  return sign | static_cast<std::uint16_t>(((exponent + 14) << 10) + mantissa - 1024);
}

}  // namespace laparoflow::cuda::simulator
