// A router turns token activations into a Routing. One file a router in routers/, one row in
// routers/table.cc. Logits and everything after them are in wide_t<T>. Ties in a top-k go to the lower expert
// index.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moe/config.h"
#include "moe/kernels.h"
#include "moe/routing.h"
#include "moe/state.h"
#include "parallel/base/table.h"
#include "parallel/device/kernels.h"
#include "parallel/device/param_table.h"
#include "parallel/device/tap.h"

namespace cadre::moe {

template <class T>
struct RouterShape {
  int64_t dim = 0;         // D
  int64_t max_tokens = 0;  // worst-case T of a micro-batch
  int num_experts = 0;     // E
  int top_k = 0;           // K
  // Borrowed; outlive the router. Null is enough for reading the config.
  const MoeKernels<T>* kernels = nullptr;
  const device::DeviceKernels<T>* dense = nullptr;
};

template <class T>
class Router {
 public:
  using W = device::wide_t<T>;
  virtual ~Router() = default;

  virtual void declare(device::ParamTable& table, const std::string& prefix, int bucket) = 0;
  virtual void bind(device::ParamStore<T>& store) = 0;
  // saved: activations and the views of `routing`; scratch is used within one call only.
  virtual void reserve(device::Arena& saved, device::Arena& scratch) = 0;
  // Width r of Routing::slot_hint; 0 when experts start from the token itself.
  virtual int64_t hint_width() const { return 0; }
  virtual int64_t max_slots() const = 0;  // A in the worst case

  // x: (T, D); segment: (T), -1 is padding, num_real tokens are not. The result stays valid, and x must stay
  // unchanged, until backward.
  virtual Routing<T>& forward(device::Queue& queue, device::View<const T, 2> x,
                              device::View<const int32_t, 1> segment, int64_t num_real, bool training) = 0;
  // dx (T, D) += gradient; parameter gradients are added. The z-loss gradient (2 beta lse softmax(z) per
  // token, spec 1) joins here because only the router has the logits.
  virtual void backward(device::Queue& queue, device::View<const T, 2> x, const RoutingGrad<T>& grad,
                        device::View<T, 2> dx, device::Tap<T>* tap) = 0;
  // sum[0] += scale * (sum over real tokens of logsumexp(logits)^2 of the last forward), on the device; nothing
  // for routers whose scores are not logits.
  virtual void add_z_loss(device::Queue& queue, double scale, device::View<double, 1> sum) const {
    (void)queue, (void)scale, (void)sum;
  }

  // The next forward takes these experts (T, K) instead of its own choice, kNoExpert for padding.
  virtual void replay(std::span<const uint8_t> choice) {
    (void)choice;
    fail(ExitCode::kUsage, "this router cannot replay a routing: its experts are not chosen token by token");
  }

  // After an optimizer step: tokens of each expert (E) in the global batch. Loss-free balancing updates its
  // bias here.
  virtual void after_step(const std::vector<double>& counts) { (void)counts; }
  virtual void save(StateDict& state, const std::string& prefix) const { (void)state, (void)prefix; }
  virtual void load(const StateDict& state, const std::string& prefix) { (void)state, (void)prefix; }

  virtual bool causal() const { return true; }            // false: a token's experts depend on later tokens
  virtual bool split_dependent() const { return false; }  // true: the result depends on how a batch is split
};

// ---- The table (routers/table.cc) ----
template <class T>
using RouterMaker = std::unique_ptr<Router<T>> (*)(base::Section, const RouterShape<T>&);
template <class T>
const std::vector<base::Entry<RouterMaker<T>>>& router_table();
template <class T>
std::unique_ptr<Router<T>> make_router(const MoeConfig& config, const RouterShape<T>& shape);

}  // namespace cadre::moe
