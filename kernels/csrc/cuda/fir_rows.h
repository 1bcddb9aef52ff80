// The input of the FIR resampling on the GPU: rows that are filtered along x as they come in.
#pragma once

#include "fir_plan.h"

namespace {

// N vectors of V elements as they lie in memory, two elements of 16 bits in a word.
template <class T, int V, int N>
struct Raw {
  static constexpr int kPerWord = V == 1 ? 1 : 4 / int(sizeof(T));
  static constexpr int kWords = N * V / kPerWord;
  uint32_t words[kWords];

  __device__ __forceinline__ void put(int i, const T* from) {
    const auto vector = *reinterpret_cast<const Vector<T, V>*>(from);
#pragma unroll
    for (int k = 0; k < V / kPerWord; ++k) words[i * V / kPerWord + k] = vector.words[k];
  }
  __device__ __forceinline__ void clear(int i) {
#pragma unroll
    for (int k = 0; k < V / kPerWord; ++k) words[i * V / kPerWord + k] = 0;
  }
  __device__ __forceinline__ float at(int i) const {
    if constexpr (std::is_same_v<T, float>) return bits_as<float>(words[i]);
    const float2 pair = widened<T>(words[i / kPerWord]);
    return i % kPerWord ? pair.y : pair.x;
  }
  // Drops the first elements, fewer than a vector has.
  __device__ __forceinline__ void drop(int count) {
    static_assert(V / kPerWord == 4, "a vector has 16 bytes");
    drop_words<2>(count / kPerWord & 2);
    drop_words<1>(count / kPerWord & 1);
    if constexpr (kPerWord == 2) {
      const int bits = count % 2 * 16;
#pragma unroll
      for (int i = 0; i + 1 < kWords; ++i)
        words[i] = uint32_t((uint64_t(words[i + 1]) << 32 | words[i]) >> bits);
    }
  }

 private:
  template <int kCount>
  __device__ __forceinline__ void drop_words(bool does) {
    // With masks, because a choice between two elements would put them into memory.
    const uint32_t moves = does ? ~0u : 0u;
#pragma unroll
    for (int i = 0; i + kCount < kWords; ++i)
      words[i] = (words[i + kCount] & moves) | (words[i] & ~moves);
  }
};

// Rows of a plane that are whole vectors, filtered along x to V neighbours.
template <class T, int V, int kUp, int kDown>
class PlaneRows {
 public:
  static constexpr int kColumns = kUp == 2 ? V / 2 + 2 : (V - 1) * kDown + 4;
  static constexpr int kVectors = (V - 1 + kColumns + V - 1) / V;
  using Fetched = Raw<T, V, kVectors>;

  __device__ PlaneRows(const UpfirdnArgs& a, const Plan&, int64_t image, unsigned vector)
      : width_(unsigned(a.in_w)), even_(a.pad_x % 2 == 0) {
    const int first = int(first_tap(int64_t(vector) * V, kUp, kDown, a.pad_x).pixel);
    past_ = first & (V - 1);
    begin_ = first - past_;
    from_ = static_cast<const T*>(a.x) + image * a.in_h * a.in_w + begin_;
  }
  __device__ __forceinline__ void set(const float (&taps)[4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) taps_[k] = kUp == 2 && !even_ ? taps[k ^ 1] : taps[k];
  }
  // Whether there are pixels in the reach of the taps.
  __device__ __forceinline__ bool any() const { return true; }

  __device__ __forceinline__ Fetched fetch(unsigned row) const {
    Fetched raw = {};
    const T* const from = from_ + row * width_;
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      if (unsigned(begin_ + i * V) < width_) raw.put(i, from + i * V);
    return raw;
  }

  __device__ __forceinline__ void filter(Fetched raw, float (&to)[V]) const {
    raw.drop(past_);
    float columns[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) columns[i] = raw.at(i);
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
  const unsigned width_;
  const bool even_;
  const T* from_;
  int begin_, past_;  // column where the vectors begin, elements of them before the first tap
  float taps_[4];
};

// V channels of one output column where channels come last, or single elements wherever they lie.
template <class T, int V, int kUp, int kDown>
class PixelRows {
 public:
  static constexpr int kTaps = 4 / kUp;
  using Fetched = Raw<T, V, kTaps>;

  __device__ PixelRows(const UpfirdnArgs& a, const Plan& plan, int64_t image, unsigned vector) {
    const int step = a.channels_last ? int(a.c) : 1, width = int(a.in_w);
    const FirstTap first = first_tap(vector / plan.vectors_of_pixel, kUp, kDown, a.pad_x);
    plane_ = static_cast<const T*>(a.x) + image * a.in_h * a.in_w * step +
             vector % plan.vectors_of_pixel * V;
    row_ = unsigned(width * step);
    odd_ = kUp == 2 && first.tap;
    // Beside the row, the nearest pixel is read, and cleared.
    const int column = int(first.pixel), last = width - 1;
    any_ = width > 0 && column <= last && column + kTaps > 0;
    left_ = max(-column, 0);
    right_ = max(column + kTaps - width, 0);
#pragma unroll
    for (int t = 0; t < kTaps; ++t) places_[t] = unsigned(min(max(column + t, 0), last) * step);
  }
  __device__ __forceinline__ void set(const float (&taps)[4]) {
#pragma unroll
    for (int t = 0; t < kTaps; ++t) taps_[t] = odd_ ? taps[t * kUp + kUp - 1] : taps[t * kUp];
  }
  __device__ __forceinline__ bool any() const { return any_; }

  __device__ __forceinline__ Fetched fetch(unsigned row) const {
    Fetched raw;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) raw.put(t, plane_ + (row * row_ + places_[t]));
    return raw;
  }

  __device__ __forceinline__ void filter(Fetched raw, float (&to)[V]) const {
    if (left_ + right_ > 0) clear_beside(raw);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      to[i] = taps_[0] * raw.at(i);
#pragma unroll
      for (int t = 1; t < kTaps; ++t) to[i] += taps_[t] * raw.at(t * V + i);
    }
  }

 private:
  __device__ __forceinline__ void clear_beside(Fetched& raw) const {
#ifdef __CUDA_ARCH__
    // Few threads come here; without this, all of them would choose word by word.
    asm volatile("");
#endif
#pragma unroll
    for (int t = 0; t < kTaps; ++t)
      if (t < left_ || t >= kTaps - right_) raw.clear(t);
  }

  const T* plane_;
  unsigned row_, places_[kTaps];  // elements of a row, and before a pixel of it
  int left_, right_;              // taps beside the row
  bool any_, odd_;
  float taps_[kTaps];
};

// Filtered rows, some of them fetched before they are asked for; zeros outside of [0, end).
template <class Rows, int V>
class Queue {
 public:
  __device__ Queue(const Rows& rows, int row, int end)
      : rows_(rows), row_(row), end_(rows.any() ? end : 0) {
#pragma unroll
    for (int i = 0; i < kRowsAhead; ++i) ahead_[i] = fetch(row + i);
  }

  __device__ __forceinline__ void next(float (&to)[V]) {
    const typename Rows::Fetched raw = ahead_[0];
#pragma unroll
    for (int i = 0; i + 1 < kRowsAhead; ++i) ahead_[i] = ahead_[i + 1];
    ahead_[kRowsAhead - 1] = fetch(row_++ + kRowsAhead);
    rows_.filter(raw, to);
  }

 private:
  __device__ __forceinline__ typename Rows::Fetched fetch(int row) const {
    return row >= 0 && row < end_ ? rows_.fetch(unsigned(row)) : typename Rows::Fetched{};
  }

  static constexpr int kBytes = sizeof(typename Rows::Fetched);
  static constexpr int kRowsAhead = kBytes > 48 ? 1 : kBytes > 16 ? 2 : 4;

  const Rows& rows_;
  int row_, end_;
  typename Rows::Fetched ahead_[kRowsAhead];
};

}  // namespace
