// The makers of the routers, one a file; table.cc lists them.
#pragma once

#include "moe/router.h"

namespace cadre::moe {

template <class T>
std::unique_ptr<Router<T>> make_softmax_topk(base::Section section, const RouterShape<T>& shape);
template <class T>
std::unique_ptr<Router<T>> make_sigmoid_bias(base::Section section, const RouterShape<T>& shape);
template <class T>
std::unique_ptr<Router<T>> make_expert_choice(base::Section section, const RouterShape<T>& shape);
template <class T>
std::unique_ptr<Router<T>> make_autonomy(base::Section section, const RouterShape<T>& shape);

}  // namespace cadre::moe
