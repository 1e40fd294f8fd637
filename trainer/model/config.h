// The `model` section of a run file.
#pragma once

#include <cstdint>
#include <string>

#include "parallel/base/config.h"

namespace cadre::trainer {

// What is normed (RMSNorm with a learned weight) between the query and key projections and the rotation:
// nothing; each head by itself, with one weight (h) for all heads (Qwen3); or the whole projected row at once,
// with a weight (heads x h) (OLMoE).
enum class QkNorm { kNone, kHead, kFull };

// What a layer makes again in the backward pass instead of keeping it from the forward pass (`train.activation_recompute`).
// Activations of SwiGLU and gathered rows of experts are always made again. kSelective: also what norms and rotations
// gave, for one pass over memory each. kFull: all but the layer's input, the routing and what other ranks sent, for
// most of the layer's forward pass. The gradients are the same bits.
enum class Recompute { kNone, kSelective, kFull };

// A long-context rule of rotary positions; which keys a rule reads is said in rope_scaling.cc.
struct RopeScaling {
  std::string name = "none";  // none | linear | dynamic | llama3 | yarn
  double factor = 1;
  int64_t original_context = 0;                      // positions that the model was first trained on
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn, turns within original_context
  double attention_factor = 0;                       // yarn, of cosines and sines; 0: 0.1 ln(factor) + 1
  bool truncate = true;                              // yarn: whole numbers as the ends of its ramp
};

struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling;
};

struct ModelConfig {
  int64_t vocab = 0;  // from the tokenizer unless the run file gives it
  int64_t dim = 128;
  int layers = 4;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 0;                // 0: dim / heads
  int64_t ffn_width = 384;         // of dense layers
  int first_dense_layers = 1;      // these layers have no experts
  int moe_every = 1;               // after them, every n-th layer has experts
  QkNorm qk_norm = QkNorm::kNone;  // in YAML none | head | full; true reads as head, false as none
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
const char* qk_norm_name(QkNorm kind);
const char* recompute_name(Recompute kind);
inline constexpr Recompute kRecomputes[] = {Recompute::kNone, Recompute::kSelective, Recompute::kFull};

}  // namespace cadre::trainer
