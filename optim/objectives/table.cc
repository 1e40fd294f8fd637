// Every objective, by name. Add a row here when you add a file.
#include "optim/objectives/cross_entropy.h"

namespace cadre::optim {

template <class T>
const std::vector<base::Entry<ObjectiveMaker<T>>>& objective_table() {
  static const std::vector<base::Entry<ObjectiveMaker<T>>> table = {
      {"cross_entropy", "mean negative log-probability of the next token", make_cross_entropy<T>},
  };
  return table;
}

template <class T>
std::unique_ptr<Objective<T>> make_objective(base::Section section) {
  const std::string name = section.text("name", "cross_entropy");
  return base::find_entry(objective_table<T>(), "objective", name).make(section);
}

template const std::vector<base::Entry<ObjectiveMaker<float>>>& objective_table();
template const std::vector<base::Entry<ObjectiveMaker<double>>>& objective_table();
template std::unique_ptr<Objective<float>> make_objective(base::Section);
template std::unique_ptr<Objective<double>> make_objective(base::Section);

}  // namespace cadre::optim
