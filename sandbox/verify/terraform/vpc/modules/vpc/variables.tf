variable "name" {
  description = "What the names of all resources begin with"
  type        = string
}

variable "cidr" {
  description = "The network's addresses, a /16"
  type        = string
}

variable "availability_zones" {
  description = "Where there is a public and a private subnet"
  type        = list(string)
}
