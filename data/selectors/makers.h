// The makers that table.cc lists; each is described at the top of the file that has its name.
#pragma once

#include "data/selector.h"

namespace cadre::data {

std::unique_ptr<Selector> make_none_selector(base::Section section);
std::unique_ptr<Selector> make_bands(base::Section section);
std::unique_ptr<Selector> make_gumbel(base::Section section);
std::unique_ptr<Selector> make_less(base::Section section);
std::unique_ptr<Selector> make_bids(base::Section section);
std::unique_ptr<Selector> make_rho1(base::Section section);
std::unique_ptr<Selector> make_rho_loss(base::Section section);

}  // namespace cadre::data
