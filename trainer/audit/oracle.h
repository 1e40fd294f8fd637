// The one-step oracle: does the influence of a group of documents say what a real optimizer step with them does? A
// group is added to a fixed background batch, one AdamW step is taken from a saved moment of a run, and the loss on
// held-out text is compared with the same step without the group. To first order, with n tokens, g mean gradients, D =
// P G (the optimizer's direction), c the clip coefficient and s Adam's share of a new gradient in its first moment,
//   loss(b) - loss(b + g) = lr s c n_g / (n_b + n_g) <D', g_g - g_b>,
// where D' = D - u <D, u> with u the unit background gradient when it is clipped (the derivative of c), else D.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/audit/journal.h"
#include "trainer/audit/one_step.h"

namespace cadre::audit {

struct OracleConfig {
  std::vector<int64_t> sizes = {256};  // documents of a group
  int64_t groups = 200;                // of each size
  int64_t background = 256;            // documents
  int64_t passage = 64;  // documents are cut into passages of so many tokens, each a document; 0: whole
  std::vector<double> lr = {0.1, 1, 10};  // times the run's learning rate at that moment
  int64_t seed = 1;
};
OracleConfig read_oracle(base::Section section);

// What one group was predicted to do and did, in nats of target loss; > 0: the loss falls.
struct OracleGroup {
  double adam = 0, unclipped = 0,
         gradient = 0;               // predicted by D', by D, and by D' with D = G; per unit of lr
  std::vector<double> after;         // predicted with G taken after the background's step; by lr
  std::vector<double> real, frozen;  // by lr; frozen: the step with the old v
  double identity_error = 0;         // scores of the influence engine against <D', g>, relative
};
struct OracleCell {  // one size, one lr, v real or frozen
  int64_t size = 0, groups = 0;
  double lr = 0;
  bool frozen = false;
  // Of the prediction against what happened. slope: real = slope * lr * predicted, least squares.
  double spearman = 0, low = 0, high = 0, pearson = 0, slope = 0;
  double unclipped = 0, gradient = 0, after = 0;  // Spearman of the other forms
};
struct OracleResult {
  std::vector<OracleCell> cells;
  std::map<int64_t, std::vector<OracleGroup>> groups;  // by size
  double run_lr = 0, clip_scale = 1, identity_error = 0;
  uint64_t step = 0;
};

// Measures what the journal lacks. `keep_going` is asked before every group; when it says no, returns false with the
// rest undone.
bool measure_oracle(const OracleConfig& config, trainer::TrainState& state, Journal& journal,
                    const std::function<bool()>& keep_going, OracleResult& result);

nlohmann::ordered_json oracle_json(const OracleConfig& config, const OracleResult& result);
// Tables and plots for the report's body.
std::string oracle_html(const OracleResult& result);
std::string oracle_markdown(const OracleResult& result);
std::vector<std::pair<std::string, std::string>> oracle_figures(const OracleResult& result);  // name, figure

}  // namespace cadre::audit
