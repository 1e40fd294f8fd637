// DeepSeek-V3's router (arXiv 2412.19437, section 2.1.2): s = sigmoid(z); experts are chosen by s + b among
// the best groups; g = route_scale * s / (sum of s over the chosen). The bias b never enters a gate and gets
// no gradient. After each optimizer step b moves by a fixed amount against the load of the global batch
// (loss-free balancing, Wang et al. 2024, arXiv 2408.15664, Alg. 1); the mean of the change is taken off
// again, so that the biases cannot drift together.
#include "moe/routers/makers.h"
#include "moe/routers/scored_router.h"
#include "parallel/base/errors.h"
#include "parallel/device/transfer.h"

namespace cadre::moe {
namespace {

struct SigmoidBiasConfig {
  double route_scale = 1;  // 2.5 in DeepSeek-V3
  GroupLimit groups;       // 8 groups, 4 kept in DeepSeek-V3
  double bias_update_rate = 1e-3;
};

template <class T>
class SigmoidBias final : public LinearRouter<T> {
 public:
  using typename Router<T>::W;
  SigmoidBias(const SigmoidBiasConfig& config, const RouterShape<T>& shape)
      : LinearRouter<T>(shape, {.kind = ScoreRule::kSigmoid, .share = true, .scale = config.route_scale}),
        config_(config),
        bias_(shape.num_experts, 0.0) {}

  void reserve(device::Arena& saved, device::Arena& scratch) override {
    LinearRouter<T>::reserve(saved, scratch);
    bias_view_ = saved.take<W, 1>({int64_t(bias_.size())});
  }

  void after_step(const std::vector<double>& counts) override {
    // Compared as c E with the sum of c, which is exact for counts; a rounded mean could differ from equal
    // counts.
    const double experts = double(counts.size());
    double sum = 0, mean_change = 0;
    for (const double c : counts) sum += c;
    std::vector<double> change(counts.size());
    for (size_t i = 0; i < counts.size(); ++i) {
      change[i] = config_.bias_update_rate * ((counts[i] * experts < sum) - (counts[i] * experts > sum));
      mean_change += change[i] / experts;
    }
    for (size_t i = 0; i < counts.size(); ++i) bias_[i] += change[i] - mean_change;
    stale_ = true;
  }

  void save(StateDict& state, const std::string& prefix) const override {
    state[prefix + ".router.bias"] = bias_;
  }
  void load(const StateDict& state, const std::string& prefix) override {
    bias_ = state_vector(state, prefix + ".router.bias", bias_.size());
    stale_ = true;
  }

 protected:
  void choose(device::Queue& queue, device::View<const int32_t, 1> segment, const ScoreViews<T>& views,
              Routing<T>& routing) override {
    if (stale_) device::upload(queue, std::vector<W>(bias_.begin(), bias_.end()), bias_view_);
    stale_ = false;
    this->choose_top_k(queue, segment, views, bias_view_, config_.groups, routing);
  }

 private:
  SigmoidBiasConfig config_;
  std::vector<double> bias_;  // (E), kept in double for the checkpoint
  device::View<W, 1> bias_view_;
  bool stale_ = true;  // the device has an older bias
};

}  // namespace

template <class T>
std::unique_ptr<Router<T>> make_sigmoid_bias(base::Section section, const RouterShape<T>& shape) {
  SigmoidBiasConfig c;
  c.route_scale = section.number("route_scale", c.route_scale, {.above = 0});
  c.groups.groups = int(section.integer("groups", c.groups.groups, {.min = 1, .max = 64}));
  c.groups.kept = int(section.integer("groups_kept", c.groups.groups, {.min = 1}));
  c.bias_update_rate = section.number("bias_update_rate", c.bias_update_rate, {.min = 0});
  if (shape.num_experts % c.groups.groups != 0)
    section.reject("groups",
                   fmt::format("{} groups do not divide the {} experts; change groups or moe.num_experts",
                               c.groups.groups, shape.num_experts));
  if (c.groups.kept > c.groups.groups)
    section.reject("groups_kept", fmt::format("{} of {} groups cannot be kept; give 1 to {}", c.groups.kept,
                                              c.groups.groups, c.groups.groups));
  if (const int open = shape.num_experts / c.groups.groups * c.groups.kept; open < shape.top_k)
    section.reject("groups_kept",
                   fmt::format("the kept groups hold {} experts, fewer than moe.top_k = {}; keep more "
                               "groups or lower moe.top_k",
                               open, shape.top_k));
  section.finish();
  return std::make_unique<SigmoidBias<T>>(c, shape);
}
template std::unique_ptr<Router<float>> make_sigmoid_bias(base::Section, const RouterShape<float>&);
template std::unique_ptr<Router<double>> make_sigmoid_bias(base::Section, const RouterShape<double>&);
template std::unique_ptr<Router<device::bf16>> make_sigmoid_bias(base::Section,
                                                                 const RouterShape<device::bf16>&);

}  // namespace cadre::moe
