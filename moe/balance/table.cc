// The balance losses by name. A new one is a file in this folder, a line in makers.h and a row here.
#include "moe/balance/makers.h"
#include "parallel/base/named_entry.h"

namespace cadre::moe {

template <class T>
const std::vector<base::Entry<BalanceMaker<T>>>& balance_table() {
  static const std::vector<base::Entry<BalanceMaker<T>>> kTable = {
      {"none", "no loss", make_no_balance<T>},
      {"micro_batch", "load of each rank's micro-batch", make_micro_batch_balance<T>},
      {"sequence", "load within each sequence", make_sequence_balance<T>},
      {"global_batch", "load over all data ranks, so far in the step", make_global_batch_balance<T>},
      {"previous_batch", "load of the whole previous step; exact for any split",
       make_previous_batch_balance<T>},
  };
  return kTable;
}

template <class T>
std::unique_ptr<BalanceLoss<T>> make_balance_loss(const MoeConfig& config, const BalanceShape<T>& shape) {
  base::Section section(config.balance, config.source, "moe.balance");
  const std::string name = section.text("name", "global_batch");
  return base::find_entry(balance_table<T>(), "balance", section, name).make(section, shape);
}

template const std::vector<base::Entry<BalanceMaker<float>>>& balance_table<float>();
template const std::vector<base::Entry<BalanceMaker<double>>>& balance_table<double>();
template const std::vector<base::Entry<BalanceMaker<device::bf16>>>& balance_table<device::bf16>();
template std::unique_ptr<BalanceLoss<float>> make_balance_loss(const MoeConfig&, const BalanceShape<float>&);
template std::unique_ptr<BalanceLoss<double>> make_balance_loss(const MoeConfig&,
                                                                const BalanceShape<double>&);
template std::unique_ptr<BalanceLoss<device::bf16>> make_balance_loss(const MoeConfig&,
                                                                      const BalanceShape<device::bf16>&);

}  // namespace cadre::moe
