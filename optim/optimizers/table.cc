// Every optimizer, by name. Add a row here when you add a file.
#include "optim/optimizers/adamw.h"
#include "optim/optimizers/muon.h"
#include "parallel/base/named_entry.h"

namespace cadre::optim {

template <class T>
const std::vector<base::Entry<OptimizerMaker<T>>>& optimizer_table() {
  static const std::vector<base::Entry<OptimizerMaker<T>>> table = {
      {"adamw", "Adam with decoupled weight decay (Loshchilov & Hutter 2019)", make_adamw<T>},
      {"muon", "orthogonalised momentum for matrices, AdamW for the rest (Jordan et al. 2024)", make_muon<T>},
  };
  return table;
}

template <class T>
std::unique_ptr<Optimizer<device::wide_t<T>>> make_optimizer(base::Section section,
                                                             OptimizerContext<T> context) {
  const std::string name = section.text("name", "adamw");
  read_peak_lr(section);
  return base::find_entry(optimizer_table<T>(), "optimizer", section, name).make(section, std::move(context));
}

double read_peak_lr(base::Section section) {
  return section.number("lr", 3e-3, {.above = 0});
}

template const std::vector<base::Entry<OptimizerMaker<float>>>& optimizer_table();
template const std::vector<base::Entry<OptimizerMaker<double>>>& optimizer_table();
template std::unique_ptr<Optimizer<float>> make_optimizer(base::Section, OptimizerContext<float>);
template std::unique_ptr<Optimizer<double>> make_optimizer(base::Section, OptimizerContext<double>);
template const std::vector<base::Entry<OptimizerMaker<device::bf16>>>& optimizer_table();
template std::unique_ptr<Optimizer<float>> make_optimizer(base::Section, OptimizerContext<device::bf16>);

}  // namespace cadre::optim
