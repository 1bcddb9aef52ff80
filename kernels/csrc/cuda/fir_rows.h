// The input of the FIR resampling on the GPU: rows that are filtered along x as they come in.
#pragma once

#include "fir_plan.h"

namespace {

// Vectors that lie one after the other, word by word.
template <class T, int N>
struct Raw {
  static constexpr int kPerWord = 4 / int(sizeof(T));
  static constexpr int kWords = N * V / kPerWord;
  uint32_t words[kWords];

  __device__ __forceinline__ void put_vector(int i, const T* from) {
    const auto vector = *reinterpret_cast<const Vector<T, V>*>(from);
#pragma unroll
    for (int k = 0; k < V / kPerWord; ++k) words[i * V / kPerWord + k] = vector.words[k];
  }
  __device__ __forceinline__ void put_element(int i, T value) {
    if constexpr (kPerWord == 1)
      words[i] = bits_as<uint32_t>(value);
    else
      words[i / 2] |= uint32_t(value.bits) << i % 2 * 16;
  }
  __device__ __forceinline__ float at(int i) const {
    if constexpr (kPerWord == 1) return bits_as<float>(words[i]);
    const float2 pair = widened<T>(words[i / 2]);
    return i % 2 ? pair.y : pair.x;
  }
  // Drops the first elements, fewer than a vector has.
  __device__ __forceinline__ void drop(int count) {
#pragma unroll
    for (int step = V / kPerWord / 2; step > 0; step /= 2) {
      // With masks, because a choice between two elements would put them into memory.
      const uint32_t moves = count / kPerWord & step ? ~0u : 0u;
#pragma unroll
      for (int i = 0; i + step < kWords; ++i)
        words[i] = (words[i + step] & moves) | (words[i] & ~moves);
    }
    if constexpr (kPerWord == 2) {
      const int bits = count % 2 * 16;
#pragma unroll
      for (int i = 0; i + 1 < kWords; ++i)
        words[i] = uint32_t((uint64_t(words[i + 1]) << 32 | words[i]) >> bits);
    }
  }
};

// Rows of a plane, filtered along x to V outputs. They are read in aligned vectors, wherever the
// rows begin; what belongs to other rows is cleared.
template <class T, int kUp, int kDown>
class PlaneRows {
 public:
  static constexpr int kColumns = kUp == 2 ? V / 2 + 2 : (V - 1) * kDown + 4;
  static constexpr int kVectors = (V - 1 + kColumns + V - 1) / V;
  using Fetched = Raw<T, kVectors>;

  __device__ PlaneRows(const UpfirdnArgs& a, const Plan& plan, const Taps& taps, int64_t image,
                       int64_t vector)
      : width_(int(a.in_w)), whole_(plan.whole_in), even_(a.pad_x % 2 == 0) {
    first_ = int(first_tap(vector * V, kUp, kDown, a.pad_x).pixel);
    plane_ = static_cast<const T*>(a.x) + image * a.in_h * a.in_w;
#pragma unroll
    for (int k = 0; k < 4; ++k) taps_[k] = kUp == 2 && !even_ ? taps.x[k ^ 1] : taps.x[k];
  }

  __device__ __forceinline__ Fetched fetch(int row) const {
    Fetched raw = {};
    const T* const from = plane_ + int64_t(row) * width_ + first_;
    const T* const begin = from - past(from);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int column = first_ - int(from - begin) + i * V;
      const bool touches = column > -V && column < width_;
      // A vector that begins before the first row or ends after the last is still inside of what
      // the allocator gave: it aligns to more than a vector.
      if (touches) raw.put_vector(i, begin + i * V);
    }
    return raw;
  }

  __device__ __forceinline__ void filter(Fetched raw, int row, float (&to)[V]) const {
    raw.drop(past(plane_ + int64_t(row) * width_ + first_));
    float columns[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      columns[i] = raw.at(i);
      if (!whole_ && unsigned(first_ + i) >= unsigned(width_)) columns[i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if constexpr (kUp == 1) {
        to[i] = taps_[0] * columns[kDown * i] + taps_[1] * columns[kDown * i + 1] +
                taps_[2] * columns[kDown * i + 2] + taps_[3] * columns[kDown * i + 3];
      } else {
        // Outputs at odd places meet the next pixel if the padding is even.
        const int at = i / 2, odd = i % 2;
        const bool next = odd && even_;
        to[i] = taps_[odd] * (next ? columns[at + odd] : columns[at]) +
                taps_[odd + 2] * (next ? columns[at + 1 + odd] : columns[at + 1]);
      }
    }
  }

 private:
  // Elements between the begin of a vector and `place`.
  static __device__ __forceinline__ int past(const T* place) {
    return int(reinterpret_cast<uintptr_t>(place) / sizeof(T) % V);
  }

  const int width_;
  const bool whole_, even_;
  const T* plane_;
  int first_;  // column
  float taps_[4];
};

// The same where channels come last: V channels of one output column.
template <class T, int kUp, int kDown>
class PixelRows {
 public:
  static constexpr int kTaps = 4 / kUp;
  using Fetched = Raw<T, kTaps>;

  __device__ PixelRows(const UpfirdnArgs& a, const Plan& plan, const Taps& taps, int64_t image,
                       int64_t vector)
      : width_(int(a.in_w)), whole_(plan.whole_in), step_(a.c) {
    const FirstTap first = first_tap(vector / plan.vectors_of_pixel, kUp, kDown, a.pad_x);
    const int64_t channel = vector % plan.vectors_of_pixel * V;
    left_ = int(min(int64_t(V), a.c - channel));
    first_ = int(first.pixel);
    plane_ = static_cast<const T*>(a.x) + image * a.in_h * a.in_w * a.c + channel;
#pragma unroll
    for (int t = 0; t < kTaps; ++t)
      taps_[t] = kUp == 2 && first.tap ? taps.x[t * kUp + kUp - 1] : taps.x[t * kUp];
  }

  __device__ __forceinline__ Fetched fetch(int row) const {
    Fetched raw = {};
    const T* const from = plane_ + (int64_t(row) * width_ + first_) * step_;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (unsigned(first_ + t) >= unsigned(width_)) continue;
      if (whole_) {
        raw.put_vector(t, from + t * step_);
      } else {
#pragma unroll
        for (int i = 0; i < V; ++i)
          if (i < left_) raw.put_element(t * V + i, from[t * step_ + i]);
      }
    }
    return raw;
  }

  __device__ __forceinline__ void filter(const Fetched& raw, int, float (&to)[V]) const {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      to[i] = taps_[0] * raw.at(i);
#pragma unroll
      for (int t = 1; t < kTaps; ++t) to[i] += taps_[t] * raw.at(t * V + i);
    }
  }

 private:
  const int width_;
  const bool whole_;
  const int64_t step_;
  const T* plane_;
  int first_;  // column
  int left_;   // channels
  float taps_[kTaps];
};

// Filtered rows, some of them fetched before they are asked for; zeros outside of [0, end).
template <class Rows>
class Queue {
 public:
  __device__ Queue(const Rows& rows, int row, int end) : rows_(rows), row_(row), end_(end) {
#pragma unroll
    for (int i = 0; i < kRowsAhead; ++i) ahead_[i] = fetch(row + i);
  }

  __device__ __forceinline__ void next(float (&to)[V]) {
    const typename Rows::Fetched raw = ahead_[0];
#pragma unroll
    for (int i = 0; i + 1 < kRowsAhead; ++i) ahead_[i] = ahead_[i + 1];
    ahead_[kRowsAhead - 1] = fetch(row_ + kRowsAhead);
    rows_.filter(raw, row_++, to);
  }

 private:
  __device__ __forceinline__ typename Rows::Fetched fetch(int row) const {
    return row >= 0 && row < end_ ? rows_.fetch(row) : typename Rows::Fetched{};
  }

  static constexpr int kRowsAhead = sizeof(typename Rows::Fetched) > 48 ? 1 : 2;

  const Rows& rows_;
  int row_, end_;
  typename Rows::Fetched ahead_[kRowsAhead];
};

}  // namespace
