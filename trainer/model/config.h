// The `model` section of a run file.
#pragma once

#include <cstdint>
#include <string>

#include "parallel/base/config.h"

namespace cadre::trainer {

struct RopeConfig {
  double theta = 10000;
  // Interop adds scaling kinds here (linear, dynamic, llama3, yarn).
};

struct ModelConfig {
  int64_t vocab = 0;  // from the tokenizer unless the run file gives it
  int64_t dim = 128;
  int layers = 4;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 0;            // 0: dim / heads
  int64_t ffn_width = 384;     // of dense layers
  int first_dense_layers = 1;  // these layers have no experts
  int moe_every = 1;           // after them, every n-th layer has experts
  bool qk_norm = false;
  bool tie_head = true;
  double norm_eps = 1e-5;
  double init_std = 0.02;
  RopeConfig rope;

  int64_t head_size() const { return head_dim > 0 ? head_dim : dim / heads; }
  bool is_moe(int layer) const {
    return layer >= first_dense_layers && (layer - first_dense_layers) % moe_every == 0;
  }
};
// Throws Error(kUsage) for sizes that do not fit together.
ModelConfig read_model(base::Section section);

}  // namespace cadre::trainer
