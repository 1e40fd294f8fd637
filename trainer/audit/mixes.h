// Mixture prediction: from one saved moment, the influence of each domain per token predicts which mixes will lower the
// held-out loss most; each mix is then trained on from that moment's values, and the two are compared.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/audit/journal.h"
#include "trainer/audit/retrain.h"
#include "trainer/run/train_state.h"
#include "trainer/study/mixture_law.h"

namespace cadre::audit {

struct MixesConfig {
  study::MixDraw draw = {
      .count = 40, .seed = 1, .low = 0.5, .high = 10, .power = 0.5, .max_ratio = 15, .least = 2e-4};
  double share = 0.2;             // of the run's steps that each mix is trained for
  int64_t domain_passages = 200;  // passages of data.seq_len tokens that a domain's influence is measured on
  std::vector<int64_t> seeds = {1};
  study::Overrides set;  // for the runs, beside the audit's
};
MixesConfig read_mixes(base::Section section);

struct MixesResult {
  std::vector<std::string> domains;
  std::vector<double> influence;  // (K) per token, on the mean target
  std::vector<double> gradient;   // (K) the same with D = G
  std::vector<std::vector<double>> mixes;
  std::vector<double> predicted,
      real;  // by mix: influence of the mix; minus the mean loss, over domains and seeds
  double pearson = 0, spearman = 0, low = 0, high = 0;  // low, high: 95% of pearson
  double gradient_pearson = 0;
};
// `checkpoint`: of the state's moment.
bool measure_mixes(const MixesConfig& config, trainer::TrainState& state,
                   const std::filesystem::path& checkpoint, const AuditContext& context, Journal& journal,
                   MixesResult& result);

nlohmann::ordered_json mixes_json(const MixesResult& result);
std::string mixes_html(const MixesResult& result);
std::string mixes_markdown(const MixesResult& result);
std::string mixes_figure(const MixesResult& result);

}  // namespace cadre::audit
