// UtiliMax (Held et al. 2025, arXiv 2501.11747): shares that serve every task, against concentration:
//   min_w |w^T U - 1|_2 + K sum_k w_k^2   over the simplex, with R w_k / N_k <= max_epochs,
// U (K, tasks) the utility of a domain for a task in [0, 1], 1 being ideal. U comes from a file, or from influence:
// then each target is a task, the most helpful domain has utility 1 and the least helpful 0.
#include <algorithm>
#include <cmath>
#include <limits>

#include "data/influence_estimate.h"
#include "data/mixers/domain_file.h"
#include "data/mixers/learnt_mixer.h"
#include "data/mixers/simplex.h"
#include "data/mixers/static_mixer.h"

namespace cadre::data {
namespace {

using Matrix = std::vector<std::vector<double>>;  // (K, tasks)

std::vector<double> solve(const Matrix& utility, const Bounds& bounds) {
  const size_t domains = utility.size(), tasks = utility.front().size();
  const auto f = [&](const std::vector<double>& w, std::vector<double>& gradient) {
    double squares = 0, risk = 0;
    std::vector<double> residual(tasks, -1.0);
    for (size_t k = 0; k < domains; ++k) {
      for (size_t i = 0; i < tasks; ++i) residual[i] += w[k] * utility[k][i];
      risk += w[k] * w[k];
    }
    for (const double r : residual) squares += r * r;
    const double norm = std::sqrt(squares);
    for (size_t k = 0; k < domains; ++k) {
      gradient[k] = 2 * double(domains) * w[k];
      for (size_t i = 0; i < tasks; ++i) gradient[k] += norm > 0 ? residual[i] / norm * utility[k][i] : 0;
    }
    return norm + double(domains) * risk;
  };
  return minimise_on_simplex(f, bounds, std::vector<double>(domains, 1.0 / double(domains)));
}

// hi_k = max_epochs N_k / R.
Bounds epoch_bounds(const base::Section& section, const MixerContext& context, double max_epochs) {
  unimax_weights(section, context, max_epochs);  // rejects a run that is longer than all caps together
  Bounds bounds = text_bounds(context.domain_tokens);
  for (size_t k = 0; k < bounds.hi.size(); ++k) {
    bounds.hi[k] =
        std::min(1.0, max_epochs * double(context.domain_tokens[k]) / double(context.total_tokens));
  }
  return bounds;
}

Matrix read_utility(const std::string& path, const std::vector<std::string>& domains) {
  const YAML::Node map = read_domain_file(path, "utility", domains);
  Matrix utility;
  for (const std::string& name : domains) {
    const YAML::Node row = map[name];
    require(row.IsSequence() && row.size() > 0, ExitCode::kData,
            "{}: domain '{}' needs a list with a number for each task", path, name);
    auto& values = utility.emplace_back();
    for (const YAML::Node& cell : row) {
      values.push_back(domain_number(path, name, cell));
      require(values.back() >= 0 && values.back() <= 1, ExitCode::kData,
              "{}: domain '{}' has utility {}, expected 0 to 1", path, name, values.back());
    }
    require(values.size() == utility.front().size(), ExitCode::kData,
            "{}: domain '{}' has {} tasks, the first has {}", path, name, values.size(),
            utility.front().size());
  }
  return utility;
}

class InfluenceUtilimax final : public LearntMixer {
 public:
  InfluenceUtilimax(int64_t period, double max_epochs, Bounds bounds)
      : LearntMixer(project_onto(std::vector<double>(bounds.hi.size(), 0.0), bounds), max_epochs),
        period_(period),
        bounds_(std::move(bounds)) {}
  Needs needs() const override { return Needs::kInfluence; }
  bool probe_due(const Progress& progress) const override { return every(period_, progress); }
  void observe(const Progress&, const DomainStats& stats) override {
    if (stats.influence.empty()) return;
    Matrix utility(w_.size());
    for (const InfluenceSums& sums : stats.influence) {
      const auto value = estimate_influence(sums).value;
      double least = std::numeric_limits<double>::infinity(), most = -least;
      for (const double v : value) {
        if (std::isfinite(v)) least = std::min(least, v), most = std::max(most, v);
      }
      for (size_t k = 0; k < w_.size(); ++k) {
        utility[k].push_back(std::isfinite(value[k]) && most > least ? (value[k] - least) / (most - least)
                                                                     : 0);
      }
    }
    w_ = solve(utility, bounds_);
  }

 private:
  int64_t period_;
  Bounds bounds_;
};

}  // namespace

std::unique_ptr<Mixer> make_utilimax(base::Section section, const MixerContext& context) {
  const std::string utility = section.text("utility", "influence");
  const int64_t period = section.integer("period", 200, {.min = 1});
  const double max_epochs = section.number("max_epochs", 4, {.above = 0});
  Bounds bounds = epoch_bounds(section, context, max_epochs);
  section.finish();
  if (utility == "influence")
    return std::make_unique<InfluenceUtilimax>(period, max_epochs, std::move(bounds));
  if (context.made_up) return std::make_unique<StaticMixer>(std::vector<double>{}, max_epochs);
  return std::make_unique<StaticMixer>(solve(read_utility(utility, context.domains), bounds), max_epochs);
}

}  // namespace cadre::data
