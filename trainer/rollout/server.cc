#include "trainer/rollout/server.h"

#include <algorithm>
#include <map>

namespace cadre::trainer {
namespace {

class Server {
 public:
  Server(const ServerContext& context, const RolloutConfig& config)
      : context_(context),
        expert_(context.sampler.mesh->expert()),
        engine_(*context.sampler.model, expert_, engine_config(context.sampler, config)),
        bell_(*context.all) {}

  void run() {
    while (trade()) work();
  }

 private:
  void work() {
    run_passes();
    engine_.pause();  // what it finishes is among what is judged and handed in
    take_finished();
  }

  // Until the bell rings. Ranks of an expert group decide together: their passes are collective.
  void run_passes() {
    for (;;) {
      const bool busy = engine_.step();
      take_finished();
      int64_t flags[] = {int64_t(done_.empty() ? 0 : 1), int64_t(bell_.rings() ? 1 : 0)};
      if (expert_.size() > 1)
        expert_.all_reduce(std::span<int64_t>(flags), comm::ReduceOp::kMax, "rollout bell");
      if (flags[1] > 0 || !busy) return;
      if (!bell_.posted() && (!starving_ || flags[0] > 0)) bell_.post();
    }
  }

  void take_finished() {
    for (Rollout& r : engine_.take_finished()) done_.push_back(std::move(r));
  }

  // False when the run is over.
  bool trade() {
    judge_rollouts(done_, context_.sampler, *context_.prompts);
    bell_.wait();
    const auto texts = context_.all->gather_texts(pack(done_), "finished rollouts");
    done_.clear();
    Orders orders = Orders::parse(texts.front());
    if (orders.stop) return false;
    starving_ = orders.starving;
    std::vector<Rollout> going_on;
    if (orders.reset || orders.collect || orders.weights) going_on = engine_.interrupt();
    if (orders.reset) going_on.clear();
    if (orders.collect) context_.all->gather_texts(pack(going_on), "rollouts under way");
    if (orders.weights) {
      pass_values(*context_.all, context_.values, true);
      context_.sampler.model->load_state(orders.state.get<moe::StateDict>());
      engine_.set_version(orders.version);
    }
    const uint64_t samplers = uint64_t(context_.all->size() - context_.trainers);
    const uint64_t own = uint64_t(context_.all->rank() - context_.trainers);
    for (Rollout& r : orders.groups) {
      if (r.group % samplers == own) going_on.push_back(std::move(r));
    }
    add(std::move(going_on));
    return true;
  }

  // Samples of a group that have not begun are fed together.
  void add(std::vector<Rollout> rollouts) {
    std::map<uint64_t, std::vector<Rollout>> fresh;
    std::vector<std::vector<Rollout>> begun;
    for (Rollout& r : rollouts) {
      if (r.response_length() == 0) {
        fresh[r.group].push_back(std::move(r));
      } else {
        begun.emplace_back().push_back(std::move(r));
      }
    }
    for (auto& one : begun) engine_.add(std::move(one));
    for (auto& [group, samples] : fresh) engine_.add(std::move(samples));
  }

  const ServerContext& context_;
  comm::Communicator& expert_;
  Engine engine_;
  Bell bell_;
  std::vector<Rollout> done_;
  bool starving_ = false;
};

}  // namespace

void serve_rollouts(const ServerContext& context, const RolloutConfig& config) {
  Server(context, config).run();
}

}  // namespace cadre::trainer
