// The makers that table.cc lists; each is described at the top of the file that has its name.
#pragma once

#include "optim/objective.h"

namespace cadre::optim {

template <class T>
std::unique_ptr<Objective<T>> make_cross_entropy(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_vespo(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_reinforce(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_grpo(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_dapo(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_gspo(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_sapo(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_cispo(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_topr(base::Section section);
template <class T>
std::unique_ptr<Objective<T>> make_dpo(base::Section section);

}  // namespace cadre::optim
