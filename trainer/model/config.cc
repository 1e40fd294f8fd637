#include "trainer/model/config.h"

#include "parallel/base/errors.h"
#include "trainer/model/rope_scaling.h"

namespace cadre::trainer {

namespace {
void check(const ModelConfig& c, const base::Section& section) {
  if (c.kv_heads > c.heads || c.heads % c.kv_heads != 0) {
    section.reject("kv_heads",
                   fmt::format("found {}, expected a divisor of heads = {}", c.kv_heads, c.heads));
  }
  if (c.head_dim == 0 && c.dim % c.heads != 0) {
    section.reject("heads",
                   fmt::format("found {}, expected a divisor of dim = {}; or set head_dim", c.heads, c.dim));
  }
  if (c.head_size() % 2 != 0) {
    section.reject(c.head_dim > 0 ? "head_dim" : "heads",
                   fmt::format("heads of size {} cannot be rotated, expected an even size", c.head_size()));
  }
  if (c.rope.scaling.name == "dynamic" && c.head_size() == 2) {
    section.reject("rope", "the dynamic rule has no exponent for heads of size 2; use larger heads");
  }
}

// Run files from before there were two kinds say true or false.
QkNorm read_qk_norm(base::Section& section) {
  const std::string word = section.choice("qk_norm", "none", {"none", "head", "full", "true", "false"});
  if (word == "full") return QkNorm::kFull;
  return word == "head" || word == "true" ? QkNorm::kHead : QkNorm::kNone;
}
}  // namespace

const char* qk_norm_name(QkNorm kind) {
  return kind == QkNorm::kFull ? "full" : kind == QkNorm::kHead ? "head" : "none";
}

const char* recompute_name(Recompute kind) {
  return kind == Recompute::kFull ? "full" : kind == Recompute::kSelective ? "selective" : "none";
}

ModelConfig read_model(base::Section section) {
  constexpr int64_t kMaxSize = 1 << 24;  // of any one side; products still fit in 64 bits
  const base::IntRange size{.min = 1, .max = kMaxSize};
  ModelConfig c;
  c.vocab = section.integer("vocab", c.vocab, {.min = 0, .max = kMaxSize});
  c.dim = section.integer("dim", c.dim, size);
  c.layers = int(section.integer("layers", c.layers, {.min = 1, .max = 4096}));
  c.heads = int(section.integer("heads", c.heads, size));
  c.kv_heads = int(section.integer("kv_heads", c.kv_heads, size));
  c.head_dim = int(section.integer("head_dim", c.head_dim, {.min = 0, .max = kMaxSize}));
  c.ffn_width = section.integer("ffn_width", c.ffn_width, size);
  c.first_dense_layers =
      int(section.integer("first_dense_layers", c.first_dense_layers, {.min = 0, .max = 4096}));
  c.moe_every = int(section.integer("moe_every", c.moe_every, {.min = 1, .max = 4096}));
  c.qk_norm = read_qk_norm(section);
  c.tie_head = section.boolean("tie_head", c.tie_head);
  c.norm_eps = section.number("norm_eps", c.norm_eps, {.min = 0, .max = 1});
  c.init_std = section.number("init_std", c.init_std, {.max = 10, .above = 0});
  c.rope = read_rope(section.section("rope"));
  section.finish();
  check(c, section);
  return c;
}

}  // namespace cadre::trainer
