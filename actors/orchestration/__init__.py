"""What runs a study on Ray: controller, gangs, measurers, policy, the study's actor."""
