// A tap sees the inputs and output gradients of everything that has parameters during the backward pass: linear
// layers, look-ups and the scales of norms. Influence scores need them (s = sum of b . (D a) over tokens);
// nothing else may depend on a tap being there.
#pragma once

#include "parallel/device/view.h"

namespace cadre::device {

// A tap as those hand it on who do not know the model's storage type; it is a Tap of that type.
class AnyTap {
 public:
  virtual ~AnyTap() = default;
};

template <class T>
class Tap : public AnyTap {
 public:
  // Row `param` of the table computed y = a W^T; b is the gradient of y. a: (R, in), b: (R, out). token[r] is
  // the index within the micro-batch of the token of row r, or null when row r is token r. For experts,
  // group_offsets (experts + 1) cuts the rows by local expert; else it is empty. The views are valid during
  // the call only. Rows of experts can come from other ranks: with an expert group of several ranks token[r]
  // is s * max_tokens + t for token t of the group's rank s, max_tokens being the most a micro-batch may
  // have; with one rank it is t. For an expert's last matrix a has the gate multiplied in, so that b is the
  // gradient of the token's output. A parameter may have one more axis than a matrix (router blocks of
  // Autonomy of Experts): out then runs over its first axes together.
  virtual void on_linear(int param, View<const T, 2> a, View<const T, 2> b, const int32_t* token,
                         View<const int64_t, 1> group_offsets) = 0;
  // The same for a layer whose outputs' gradients are in wide_t, where T is narrower: routers. Row r is token r.
  virtual void on_wide_linear(int param, View<const T, 2> a, View<const wide_t<T>, 2> b) {
    (void)param, (void)a, (void)b;
  }
  // Row `param` is a table (V, D), and token r's output was its row index[r]; b: (R, D) is the gradient of the
  // outputs.
  virtual void on_lookup(int param, View<const int32_t, 1> index, View<const T, 2> b) {
    (void)param, (void)index, (void)b;
  }
  // Row `param` (D) scaled normalised rows: y[r] = x[r] * rstd[r] * w; b: (R, D) is the gradient of y. Row r
  // belongs to token r / rows_per_token.
  virtual void on_scale(int param, View<const T, 2> x, View<const wide_t<T>, 1> rstd, View<const T, 2> b,
                        int64_t rows_per_token) {
    (void)param, (void)x, (void)rstd, (void)b, (void)rows_per_token;
  }
};

}  // namespace cadre::device
