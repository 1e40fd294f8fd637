// The makers of the balance losses, one a file; table.cc lists them.
#pragma once

#include "moe/balance_loss.h"

namespace cadre::moe {

template <class T>
std::unique_ptr<BalanceLoss<T>> make_no_balance(base::Section section, const BalanceShape<T>& shape);
template <class T>
std::unique_ptr<BalanceLoss<T>> make_micro_batch_balance(base::Section section, const BalanceShape<T>& shape);
template <class T>
std::unique_ptr<BalanceLoss<T>> make_sequence_balance(base::Section section, const BalanceShape<T>& shape);
template <class T>
std::unique_ptr<BalanceLoss<T>> make_global_batch_balance(base::Section section,
                                                          const BalanceShape<T>& shape);
template <class T>
std::unique_ptr<BalanceLoss<T>> make_previous_batch_balance(base::Section section,
                                                            const BalanceShape<T>& shape);

}  // namespace cadre::moe
