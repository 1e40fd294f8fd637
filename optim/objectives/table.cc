// Every objective, by name. Add a row here when you add a file.
#include "optim/objectives/makers.h"
#include "parallel/base/named_entry.h"

namespace cadre::optim {

template <class T>
const std::vector<base::Entry<ObjectiveMaker<T>>>& objective_table() {
  static const std::vector<base::Entry<ObjectiveMaker<T>>> table = {
      {"cross_entropy", "mean negative log-probability of the next token", make_cross_entropy<T>},
      {"vespo", "sequence-level, variational kernel on W: for stale samples", make_vespo<T>},
      {"reinforce", "REINFORCE with truncated importance weights", make_reinforce<T>},
      {"grpo", "clipped ratio by token, averaged by sequence", make_grpo<T>},
      {"dapo", "clipped ratio by token, wider above, averaged over tokens", make_dapo<T>},
      {"gspo", "clipped length-normalised ratio of the sequence", make_gspo<T>},
      {"sapo", "soft gate on the ratio of a token", make_sapo<T>},
      {"cispo", "REINFORCE with a clipped weight of each token", make_cispo<T>},
      {"topr", "REINFORCE, negative samples weighted by min(s, 1)", make_topr<T>},
      {"dpo", "preference pairs against a frozen reference", make_dpo<T>},
  };
  return table;
}

template <class T>
std::unique_ptr<Objective<T>> make_objective(base::Section section) {
  const std::string name = section.text("name", "cross_entropy");
  return base::find_entry(objective_table<T>(), "objective", section, name).make(section);
}

template const std::vector<base::Entry<ObjectiveMaker<float>>>& objective_table();
template const std::vector<base::Entry<ObjectiveMaker<double>>>& objective_table();
template std::unique_ptr<Objective<float>> make_objective(base::Section);
template std::unique_ptr<Objective<double>> make_objective(base::Section);

}  // namespace cadre::optim
