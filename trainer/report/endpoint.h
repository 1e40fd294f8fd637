// A read-only HTTP endpoint with the newest metrics in Prometheus' text format (version 0.0.4): GET /metrics. It has no
// other verb and no other page, sees only numbers that metrics.jsonl holds too, and listens on loopback unless told
// otherwise.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "trainer/report/sink.h"

namespace cadre::report {

class Endpoint : public MetricSink {
 public:
  // Port 0: the system chooses. Throws Error(kUsage) when the address cannot be listened on.
  Endpoint(const std::string& address, int port);
  ~Endpoint() override;
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;
  int port() const { return port_; }
  void line(const nlohmann::json& line) override;
  // "cadre_loss 3.2", "cadre_domain_loss{domain=\"alpha\"} 3.1", "cadre_events_total{event=\"skip\"} 1"
  std::string text() const;

 private:
  void serve();
  void answer(int connection) const;

  int listener_ = -1, wake_ = -1, port_ = 0;
  mutable std::mutex mutex_;  // of the values
  std::map<std::string, std::map<std::string, double>> gauges_;
  std::map<std::string, double> events_;
  std::thread thread_;
};

}  // namespace cadre::report
