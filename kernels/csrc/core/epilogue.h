// y = clamp(gain * act(scale * x + strength * noise + bias)) on x seen as [n, c, p].
#pragma once

#include "activation.h"

struct EpilogueArgs {
  Dtype dtype;
  Act act;
  bool channels_last;  // memory order [n, p, c] instead of [n, c, p]
  // Backward: `x` is the output y of the forward pass, whose sign tells the slope; there is neither
  // a scale nor a sum for one.
  bool from_output;
  bool scaled;  // backward: the result is multiplied by `scale`
  int64_t n, c, p;
  int64_t noise_n;  // 1: all samples share it
  double alpha, gain;
  // Negative: none. Backward: rounded to `dtype`; an output that is so, too, has no gradient once
  // it has reached the bound.
  double clamp;
  // Of `dtype`. Forward: x -> out. Backward: dy and x -> out; x may be null where the slope is 1.
  const void *x, *dy;
  void* out;
  // Of the accumulation type; null where absent. [n, c], [noise_n, p], [1], [c].
  const void *scale, *noise, *strength, *bias;
  // Backward; of the accumulation type; null where unwanted: sums over one part of the pixels of
  // sample n, laid out [n, parts, c].
  void *sum_scale, *sum_strength, *sum_bias;
};

// On the CPU, channels-last sums are formed over runs of this many pixels, whatever the number of
// threads.
constexpr int64_t kPixelsPerPart = 256;

static inline int64_t epilogue_parts(const EpilogueArgs& a) {
  return a.channels_last ? (a.p + kPixelsPerPart - 1) / kPixelsPerPart : 1;
}

// On a GPU, long enough that adding up the threads' sums is a small part of the work, and short
// enough that all of a large GPU is busy to the end.
static inline int64_t epilogue_parts_on_gpu(const EpilogueArgs& a) {
  constexpr int64_t kEnoughBlocks = 4096;
  const int64_t least = a.channels_last ? 256 : 8192, most = a.channels_last ? 4096 : a.p;
  const int64_t channels_of_block = a.channels_last ? 32 : 2;
  const int64_t blocks = a.n * ((a.c + channels_of_block - 1) / channels_of_block);
  int64_t pixels = a.p * blocks / kEnoughBlocks;
  pixels = pixels < most ? pixels : most;
  pixels = pixels > least ? pixels : least;
  return (a.p + pixels - 1) / pixels;
}

// Items of work: planes of one channel, or runs of pixels of all channels.
static inline int64_t epilogue_items(const EpilogueArgs& a) {
  return a.channels_last ? a.n * epilogue_parts(a) : a.n * a.c;
}
