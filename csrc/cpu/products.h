// The three products of a block of queries and a chunk of keys, and the forms of both that they need.
//
//     S = K q^T [keys, kRows]      dq += dS^T K      dk += dS q
//
// In T; or in bfloat16 pairs where the embeddings are bfloat16 and the processor multiplies them.
#pragma once

#include <algorithm>
#include <cstring>

#include "convert.h"
#include "engine.h"
#include "gemm.h"
#ifdef LF_HAS_BF16
#include "gemm_bf16.h"
#endif

namespace {

using namespace laparoflow::cpu;

// A run of at most kChunk keys, all of them possible positives or none.
struct KeyRun {
  int64_t begin, count;
  bool weighted;
};

template <class T>
class Products {
 public:
  static int64_t scratch_size(int64_t dim) { return (2 * kRows + kChunk) * padded(dim) + kChunk * kRows; }

  Products(const Pairs<T>& pairs, T* scratch) : pairs_(pairs), ld_(padded(pairs.dim)), in_pairs_(can_pair(pairs)) {
    query_rows_ = scratch;
    query_columns_ = query_rows_ + kRows * ld_;
    keys_ = query_columns_ + kRows * ld_;
    rounded_ = keys_ + kChunk * ld_;
  }

  const T* query_row(int64_t i) const { return query_rows_ + i * ld_; }

  void load_queries(int64_t row, int64_t rows) {
    std::memset(query_rows_, 0, sizeof(T) * kRows * ld_);
    for (int64_t i = 0; i < rows; ++i)
      convert_row<T>(pairs_.query, pairs_.element, (row + i) * pairs_.dim, pairs_.dim, query_rows_ + i * ld_);
#ifdef LF_HAS_BF16
    if constexpr (sizeof(T) == 4)
      if (in_pairs_) return pair_queries(row, rows);
#endif
    for (int64_t d = 0; d < pairs_.dim; ++d)
      for (int64_t i = 0; i < kRows; ++i) query_columns_[d * kRows + i] = query_rows_[i * ld_ + d];
  }

  // out [keys, kRows] = K q^T
  void logits(const KeyRun& run, T* out) {
#ifdef LF_HAS_BF16
    if constexpr (sizeof(T) == 4)
      if (in_pairs_)
        return gemm<PairTile>(run.count, kRows, pairs_.dim / 2, bf16_key(run.begin), pairs_.dim, 2, query_pairs_of_d(),
                              kRows, out, kRows, Into::kSet, keys_after(run));
#endif
    const Keys keys = key_rows(run);
    gemm<VectorTile<T>>(run.count, kRows, pairs_.dim, keys.rows, keys.ld, 1, query_columns_, kRows, out, kRows, Into::kSet,
                        keys_after(run));
  }

  // dquery [kRows, padded dim] += dS^T K and dkey [keys, padded dim] += dS q, each where not null; ds [keys, kRows]
  void gradients(const KeyRun& run, const T* ds, T* dquery, T* dkey) {
#ifdef LF_HAS_BF16
    if constexpr (sizeof(T) == 4)
      if (in_pairs_) return paired_gradients(run, ds, dquery, dkey);
#endif
    if (dquery) weighted_keys(run, ds, dquery);
    if (dkey)
      gemm<VectorTile<T>>(run.count, ld_, kRows, ds, kRows, 1, query_rows_, ld_, dkey, ld_, Into::kAddFar, keys_after(run));
  }

  // dquery += w^T K in T, for any weights
  void weighted_keys(const KeyRun& run, const T* weights, T* out) {
    const Keys keys = key_rows(run);
    gemm<VectorTile<T>>(kRows, ld_, run.count, weights, 1, kRows, keys.rows, keys.ld, out, ld_, Into::kAdd, {});
  }

 private:
  struct Keys {
    const T* rows;
    int64_t ld;
  };
  // the chunk behind this one, as far as it goes: past the last key nothing is read, a prefetch of any address is harmless
  Upcoming keys_after(const KeyRun& run) const {
    const int64_t size = pairs_.element == Element::kDouble ? 8 : pairs_.element == Element::kFloat ? 4 : 2;
    return {static_cast<const char*>(pairs_.key) + (run.begin + run.count) * pairs_.dim * size, kChunk * pairs_.dim * size};
  }
  static bool can_pair(const Pairs<T>& pairs) {
    return pairs.native_bf16 && pairs.element == Element::kBFloat16 && pairs.dim % kPad == 0;
  }
  Keys key_rows(const KeyRun& run) {
    const Element same = sizeof(T) == 4 ? Element::kFloat : Element::kDouble;
    if (pairs_.element == same && pairs_.dim % kPad == 0)
      return {static_cast<const T*>(pairs_.key) + run.begin * pairs_.dim, pairs_.dim};
    for (int64_t j = 0; j < run.count; ++j) {
      T* row = keys_ + j * ld_;
      convert_row<T>(pairs_.key, pairs_.element, (run.begin + j) * pairs_.dim, pairs_.dim, row);
      for (int64_t d = pairs_.dim; d < ld_; ++d) row[d] = 0;
    }
    return {keys_, ld_};
  }

#ifdef LF_HAS_BF16
  // the scratch of the columns holds both kinds of query pairs: [dim / 2, kRows] and [kRows / 2, dim]
  int32_t* query_pairs_of_d() { return reinterpret_cast<int32_t*>(query_columns_); }
  int32_t* query_pairs_of_i() { return query_pairs_of_d() + pairs_.dim / 2 * kRows; }
  const uint16_t* bf16_key(int64_t j) const { return static_cast<const uint16_t*>(pairs_.key) + j * pairs_.dim; }

  void pair_queries(int64_t row, int64_t rows) {
    const int64_t dim = pairs_.dim;
    const uint16_t* query = static_cast<const uint16_t*>(pairs_.query) + row * dim;
    int32_t* by_d = query_pairs_of_d();
    std::memset(by_d, 0, sizeof(int32_t) * kRows * dim);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t p = 0; p < dim / 2; ++p) std::memcpy(by_d + p * kRows + i, query + i * dim + 2 * p, sizeof(int32_t));
    for (int64_t i = 0; i < rows; i += 2)
      bf16_interleave(query + i * dim, i + 1 < rows ? query + (i + 1) * dim : nullptr, dim,
                      query_pairs_of_i() + i / 2 * dim);
  }

  void paired_gradients(const KeyRun& run, const float* ds, float* dquery, float* dkey) {
    const int64_t dim = pairs_.dim;
    uint16_t* rows = reinterpret_cast<uint16_t*>(rounded_);
    for (int64_t j = 0; j < run.count; ++j) bf16_round(ds + j * kRows, kRows, rows + j * kRows);
    if (dkey)
      gemm<PairTile>(run.count, dim, kRows / 2, rows, kRows, 2, query_pairs_of_i(), dim, dkey, ld_, Into::kAddFar,
                     keys_after(run));
    if (!dquery) return;
    int32_t* ds_pairs = reinterpret_cast<int32_t*>(rounded_) + kChunk * kRows / 2;
    int32_t* key_pairs = reinterpret_cast<int32_t*>(keys_);
    for (int64_t j = 0; j < run.count; j += 2) {
      const bool both = j + 1 < run.count;
      bf16_interleave(rows + j * kRows, both ? rows + (j + 1) * kRows : nullptr, kRows, ds_pairs + j / 2 * kRows);
      bf16_interleave(bf16_key(run.begin + j), both ? bf16_key(run.begin + j + 1) : nullptr, dim, key_pairs + j / 2 * dim);
    }
    gemm<PairTile>(kRows, dim, (run.count + 1) / 2, ds_pairs, 1, kRows, key_pairs, dim, dquery, ld_, Into::kAdd, {});
  }
#endif

  const Pairs<T>& pairs_;
  int64_t ld_;
  bool in_pairs_;
  T* query_rows_;     // [kRows, ld], zero-padded
  T* query_columns_;  // [dim, kRows]
  T* keys_;           // [kChunk, ld], for keys that need converting or padding
  T* rounded_;        // [kChunk, kRows]: dS in bfloat16, as rows and as pairs of keys
};

}  // namespace
