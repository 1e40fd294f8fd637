#include "trainer/audit/oracle.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "parallel/base/log.h"
#include "parallel/base/rng.h"
#include "trainer/audit/derived_corpus.h"

namespace cadre::audit {
namespace {

using nlohmann::json;

// `count` different documents that are not in `without`, a function of (seed, stream) alone.
std::vector<int64_t> draw(int64_t documents, int64_t count, uint64_t seed, uint64_t stream,
                          const std::set<int64_t>& without) {
  const base::Philox random(base::mix(base::hash_name("oracle"), seed));
  std::set<int64_t> seen = without;
  std::vector<int64_t> out;
  for (uint64_t i = 0; int64_t(out.size()) < count; ++i) {
    const auto d = int64_t(random.uniform(i, stream) * double(documents));
    if (seen.insert(d).second) out.push_back(d);
  }
  std::sort(out.begin(), out.end());
  return out;
}

// D' = D - u <D, u> for the unit vector u of `gradient`.
Flat without_component(const Flat& direction, const Flat& gradient) {
  const double share = dot(direction, gradient) / dot(gradient, gradient);
  Flat out(direction.size());
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = trainer::Real(double(direction[i]) - share * double(gradient[i]));
  return out;
}

Flat mixed(const TextGradient& a, const TextGradient& b) {
  const double share = b.tokens / (a.tokens + b.tokens);
  Flat out(a.mean.size());
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = trainer::Real((1 - share) * double(a.mean[i]) + share * double(b.mean[i]));
  return out;
}

class Oracle {
 public:
  Oracle(const OracleConfig& config, trainer::TrainState& state, double run_lr)
      : config_(config),
        run_lr_(run_lr),
        corpus_(make_derived_corpus(*state.dataset.train, domain_names(*state.dataset.train),
                                    config.passage > 0 ? passages(*state.dataset.train, config.passage)
                                                       : whole_documents(*state.dataset.train))),
        moment_(state, trainer::target_corpus(state.config(), state.dataset),
                trainer::choose_targets(state.config(), state.dataset).at(0)) {
    require(state.dataset.train->kind() == data::SetKind::kText, ExitCode::kUsage,
            "{}: the oracle takes text, not sets for post-training", state.config().source);
    const int64_t largest = *std::max_element(config.sizes.begin(), config.sizes.end());
    require(corpus_->num_documents() >= 2 * (config.background + largest), ExitCode::kData,
            "{}: {} documents are too few for a background of {} and groups of {}; make audit.oracle.passage "
            "or the groups smaller",
            state.config().source, corpus_->num_documents(), config.background, largest);
    prepare();
  }

  double clip_scale() const { return clip_scale_; }

  OracleGroup measure(int64_t size, int64_t index) {
    const auto documents = draw(corpus_->num_documents(), size, uint64_t(config_.seed),
                                uint64_t(size) << 32 | uint64_t(index), background_set_);
    const TextGradient group = moment_.text_gradient(*corpus_, documents, &clipped_);
    const double exact = dot(clipped_, group.mean);
    // Relative to what scores of that many tokens are like, not to their sum, which may cancel.
    const double size_of_scores = std::sqrt(dot(clipped_, clipped_) * dot(group.mean, group.mean));
    OracleGroup out;
    out.identity_error = std::abs(group.score - exact) / size_of_scores;
    const double factor =
        moment_.moment_share() * clip_scale_ * group.tokens / (group.tokens + background_.tokens);
    const auto along = [&](const Flat& d) {
      return factor * (dot(d, group.mean) - dot(d, background_.mean));
    };
    out.adam = factor * (group.score - dot(clipped_, background_.mean));
    out.unclipped = along(direction_);
    out.gradient = along(gradient_);
    const Flat both = mixed(background_, group);
    for (size_t i = 0; i < config_.lr.size(); ++i) {
      const double lr = config_.lr[i] * run_lr_;
      out.after.push_back(along(after_[i]));
      out.real.push_back(base_real_[i] - moment_.loss_after(both, lr, false));
      out.frozen.push_back(base_frozen_[i] - moment_.loss_after(both, lr, true));
    }
    return out;
  }

 private:
  // The background's gradient and steps, and the directions.
  void prepare() {
    const auto documents = draw(corpus_->num_documents(), config_.background, uint64_t(config_.seed), 0, {});
    background_set_.insert(documents.begin(), documents.end());
    background_ = moment_.text_gradient(*corpus_, documents, nullptr);
    clip_scale_ = moment_.clip_scale(background_.mean);
    const bool clips = clip_scale_ < 1;
    const auto clip = [&](const Flat& d) { return clips ? without_component(d, background_.mean) : d; };
    const Flat g = moment_.target_gradient();
    direction_ = moment_.precondition(g);
    clipped_ = clip(direction_);
    gradient_ = clip(g);
    for (const double factor : config_.lr) {
      const double lr = factor * run_lr_;
      base_real_.push_back(moment_.loss_after(background_.mean, lr, false));
      base_frozen_.push_back(moment_.loss_after(background_.mean, lr, true));
      after_.push_back(clip(moment_.precondition(moment_.target_gradient_after(background_.mean, lr))));
    }
  }

  const OracleConfig& config_;
  double run_lr_, clip_scale_ = 1;
  std::unique_ptr<data::Corpus> corpus_;
  OneStep moment_;
  std::set<int64_t> background_set_;
  TextGradient background_;
  Flat direction_, clipped_, gradient_;
  std::vector<Flat> after_;                      // by lr
  std::vector<double> base_real_, base_frozen_;  // target loss after the background alone, by lr
};

json to_json(const OracleGroup& g) {
  return {{"adam", g.adam}, {"unclipped", g.unclipped}, {"gradient", g.gradient},      {"after", g.after},
          {"real", g.real}, {"frozen", g.frozen},       {"identity", g.identity_error}};
}
OracleGroup from_json(const json& j) {
  return {j.at("adam"),
          j.at("unclipped"),
          j.at("gradient"),
          j.at("after").get<std::vector<double>>(),
          j.at("real").get<std::vector<double>>(),
          j.at("frozen").get<std::vector<double>>(),
          j.at("identity")};
}

}  // namespace

OracleConfig read_oracle(base::Section s) {
  OracleConfig c;
  c.sizes = s.integers("sizes", c.sizes, {.min = 1});
  c.groups = s.integer("groups", c.groups, {.min = 3});
  c.background = s.integer("background", c.background, {.min = 1});
  c.passage = s.integer("passage", c.passage, {.min = 0});
  c.lr = s.numbers("lr", c.lr, {.above = 0});
  c.seed = s.integer("seed", c.seed, {.min = 0});
  if (c.sizes.empty()) s.reject("sizes", "expected at least one");
  if (c.lr.empty()) s.reject("lr", "expected at least one");
  if (c.passage == 1) s.reject("passage", "a document has at least 2 tokens");
  s.finish();
  return c;
}

bool measure_oracle(const OracleConfig& config, trainer::TrainState& state, Journal& journal,
                    const std::function<bool()>& keep_going, OracleResult& result) {
  result.step = state.progress.step;
  result.passage = config.passage;
  result.background = config.background;
  result.run_lr = state.peak_lr *
                  state.schedule->factor(int64_t(state.progress.step), int64_t(state.progress.total_steps));
  std::optional<Oracle> made;  // not where the journal has all
  const auto oracle = [&]() -> Oracle& { return made ? *made : made.emplace(config, state, result.run_lr); };
  std::vector<std::string> keys = {"clip scale"};
  std::vector<std::pair<int64_t, int64_t>> groups;  // size, number
  for (const int64_t size : config.sizes) {
    for (int64_t i = 0; i < config.groups; ++i) {
      keys.push_back(fmt::format("oracle {} {}", size, i));
      groups.emplace_back(size, i);
    }
  }
  const auto make = [&](size_t at) -> std::optional<json> {
    if (at == 0) return oracle().clip_scale();
    const auto& [size, i] = groups[at - 1];
    if ((i + 1) % 50 == 0) spdlog::info("oracle: group {} of {} of {}", i + 1, config.groups, size);
    return to_json(oracle().measure(size, i));
  };
  if (!journal.make_all(keys, make, keep_going)) return false;
  result.clip_scale = journal.find(keys[0])->get<double>();
  for (size_t at = 0; at < groups.size(); ++at) {
    std::vector<OracleGroup>& same_size = result.groups[groups[at].first];
    same_size.push_back(from_json(*journal.find(keys[at + 1])));
    result.identity_error = std::max(result.identity_error, same_size.back().identity_error);
  }
  for (const int64_t size : config.sizes) {
    for (size_t l = 0; l < config.lr.size(); ++l) {
      for (const bool frozen : {false, true}) {
        result.cells.push_back(summarise_cell(result.groups[size], l, config.lr[l], result.run_lr, frozen));
        result.cells.back().size = size;
      }
    }
  }
  return true;
}

}  // namespace cadre::audit
