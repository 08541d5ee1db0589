// Vectors of float32, weights read into them, and their sums: what the kernels for processors share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Registers hold sums of 4 neurons for each token, or of 4 vectors of columns, and what they read.
#ifdef __AVX512F__
constexpr int64_t LANES = 16;
constexpr int MOST_TOGETHER = 4;  // tokens, with 32 registers
#else
constexpr int64_t LANES = 8;
constexpr int MOST_TOGETHER = 3;  // with 16
#endif
// Vectors of the compiler: whatever registers there are, it fills.
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline Floats load(const float* from) {
  Floats lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

inline Floats load(const uint16_t* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  Floats lanes;
  std::memcpy(&lanes, &words, sizeof lanes);
  return lanes;
}

// Stays in a register: GCC would read it again for each use, and reading is what takes the time.
inline Floats kept(Floats lanes) {
#ifdef __AVX__
  asm("" : "+v"(lanes));
#endif
  return lanes;
}

inline float scalar(float value) { return value; }

inline float scalar(uint16_t half) {
  const uint32_t word = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Rounded to what the weights are, as torch would round a tensor of that type.
inline float rounded(float value, const float*) { return value; }

inline float rounded(float value, const uint16_t*) {
  if (std::isnan(value)) return value;
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  word += 0x7fff + ((word >> 16) & 1);
  return scalar(static_cast<uint16_t>(word >> 16));
}

// The sum of all lanes, in halves: lane i with lane i + HALF, and so on.
template <int HALF = LANES / 2>
inline float sum(Floats lanes) {
#ifdef __clang__
  for (int64_t lane = 0; lane < HALF; ++lane) lanes[lane] += lanes[lane + HALF];
#else  // in registers, where GCC would put lanes into memory and loop over them
  Words places;
  for (int64_t lane = 0; lane < LANES; ++lane) places[lane] = (lane + HALF) % LANES;
  lanes += __builtin_shuffle(lanes, places);
#endif
  if constexpr (HALF > 1) return sum<HALF / 2>(lanes);
  return lanes[0];
}

}  // namespace
