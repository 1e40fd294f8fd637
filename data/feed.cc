// Mixer -> planner -> loader, and what a resumed run needs of them.
#include "data/feed.h"

#include <deque>

#include "data/pair_view.h"
#include "parallel/base/errors.h"

namespace cadre::data {

using nlohmann::json;

struct DataFeed::Impl {
  struct Pending {
    std::vector<double> weights;
    json state_after;  // the planner's
  };

  PlannerConfig planner_config;
  LoaderConfig loader_config;
  const Corpus& corpus;
  std::unique_ptr<Corpus> pairs;  // what is planned, of a set of pairs
  Mixer& mixer;
  Curriculum& curriculum;
  std::unique_ptr<Planner> planner;
  std::unique_ptr<Loader> loader;
  std::deque<Pending> pending;  // planned, not consumed
  json consumed;                // the planner's state after the last consumed batch

  Impl(const PlannerConfig& p, const LoaderConfig& l, const Corpus& c, Mixer& m, Curriculum& o)
      : planner_config(p), loader_config(l), corpus(c), mixer(m), curriculum(o) {
    if (c.kind() == SetKind::kPreference) {
      require(
          !p.pack && l.mask_documents, ExitCode::kUsage,
          "a set of pairs needs data.pack: false and data.mask_documents: true, since a pair stands in one "
          "sequence and its answers do not see each other");
      pairs = make_pair_view(c, p.seq_len);
    }
    restart();
  }

  void restart() {
    loader = std::make_unique<Loader>(loader_config, corpus);
    planner = std::make_unique<Planner>(planner_config, pairs ? *pairs : corpus, curriculum);
    pending.clear();
    consumed = planner->save();
  }

  void plan(const std::vector<double>& weights) {
    loader->submit(planner->next(weights));
    pending.push_back({weights, planner->save()});
  }

  // A batch that the caps do not allow is an error only when its turn comes: the run may end before.
  void plan_ahead(const std::vector<double>& weights) {
    const auto wanted = static_cast<size_t>(loader_config.prefetch) + 1;
    while (pending.size() < wanted) {
      try {
        plan(weights);
      } catch (const Error& e) {
        if (e.code() != ExitCode::kData || pending.empty()) throw;
        return;
      }
    }
  }
};

DataFeed::DataFeed(const PlannerConfig& planner, const LoaderConfig& loader, const Corpus& corpus,
                   Mixer& mixer, Curriculum& curriculum)
    : impl_(std::make_unique<Impl>(planner, loader, corpus, mixer, curriculum)) {
  require(planner.seq_len == loader.seq_len, ExitCode::kUsage,
          "planner and loader disagree on seq_len: {} and {}", planner.seq_len, loader.seq_len);
}
DataFeed::~DataFeed() = default;

LoadedBatch DataFeed::next(const Progress& progress) {
  Impl& s = *impl_;
  // One call of the mixer a step, whatever has to be planned, so that a resumed run repeats exactly the same
  // calls.
  const std::vector<double> weights = s.mixer.weights(progress);
  s.plan_ahead(weights);
  LoadedBatch batch = s.loader->next();
  batch.weights = s.pending.front().weights;
  s.consumed = std::move(s.pending.front().state_after);
  s.pending.pop_front();
  return batch;
}

double DataFeed::last_wait_ms() const {
  return impl_->loader->last_wait_ms();
}

json DataFeed::save() const {
  const Impl& s = *impl_;
  json weights = json::array();
  for (const auto& p : s.pending) weights.push_back(p.weights);
  return {{"planner", s.consumed},
          {"pending_weights", weights},
          {"mixer", s.mixer.save()},
          {"curriculum", s.curriculum.save()}};
}

void DataFeed::load(const json& state) try {
  Impl& s = *impl_;
  s.mixer.load(state.at("mixer"));
  s.curriculum.load(state.at("curriculum"));
  s.restart();
  s.planner->load(state.at("planner"));
  s.consumed = s.planner->save();
  for (const json& weights : state.at("pending_weights")) s.plan(weights.get<std::vector<double>>());
} catch (const json::exception& e) {
  fail(ExitCode::kCheckpoint, "the checkpoint's data state cannot be read: {}", e.what());
}

}  // namespace cadre::data
