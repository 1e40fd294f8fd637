// Student's t distribution: how far a mean of few numbers can be from the truth by chance.
#pragma once

namespace cadre::base {

// P(T <= x) with `df` >= 1 degrees of freedom, not necessarily a whole number, to 1e-8.
double student_t_cdf(double x, double df);

}  // namespace cadre::base
